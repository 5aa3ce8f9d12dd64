#!/usr/bin/env perl
# The example of a driver in a third language (../README.md): a small outbox in Perl (Outbox.pm) behind the protocol.
use v5.20;
use experimental "signatures";
use FindBin;
use lib $FindBin::Bin;
use JSON::PP;
use Outbox;

my $JSON = JSON::PP->new->utf8;
my $HELLO = {protocol => 1, name => "example-perl", version => "1", language => "perl", capabilities => ["memory"]};
sub unsupported ($what) { die {kind => "unsupported", name => "Unsupported", message => "there is no $what"} }

sub drain ($r) {    # each entry is sent once, so only the first of its outcomes counts
    my ($outcomes, @sends) = ($r->{outcomes} // {});
    /^(ok|error)$/ or unsupported("outcome $_") for map { @$_ } values %$outcomes;
    my $send = sub ($id, $seen) { push @sends, $seen; die "failed" if ($outcomes->{$id} // ["ok"])->[0] ne "ok" };
    return {Outbox::drain($send, $r->{maxAttempts}), sends => \@sends};
}

my %DO = (    # each answers one value: undef is null
    hello => sub ($r) { $HELLO },
    open => sub ($r) { $r->{store} eq "memory" ? Outbox::start({}) : unsupported("store $r->{store}"); undef },
    close => sub ($r) { Outbox::start(undef); undef },
    stop => sub ($r) { undef },
    clock => sub ($r) { $Outbox::clock = $r->{ms}; undef },
    notifications => sub ($r) { $Outbox::notified },
    text => sub ($r) { $Outbox::cache->{$r->{key}} },
    put => sub ($r) { $Outbox::cache->{$r->{key}} = $r->{text}; undef },
    hydrate => sub ($r) { Outbox::hydrate($r->{key}) },
    clear => sub ($r) { Outbox::clear() },
    get => sub ($r) { Outbox::get() },
    pending => sub ($r) { Outbox::pending($r->{member}, $r->{equals}) },
    enqueue => sub ($r) { Outbox::enqueue($r->{id}, $r->{item}, $r->{ts}) },
    claim => sub ($r) { Outbox::claim($r->{id}) },
    remove => sub ($r) { Outbox::remove($r->{id}) },
    retry => sub ($r) { Outbox::retry($r->{id}) },
    markFailed => sub ($r) { Outbox::mark_failed($r->{id}) },
    recordFailure => sub ($r) { Outbox::record_failure($r->{id}, $r->{maxAttempts}) },
    drain => \&drain,
);

$| = 1;
my $told = 0;
while (my $line = <STDIN>) {
    my $r = $JSON->decode($line);
    my $value = eval {
        $Outbox::cache || $r->{op} =~ /^(hello|open|close|clock|stop)$/ or die "nothing is open\n";
        scalar(($DO{$r->{op}} // unsupported("operation $r->{op}"))->($r));
    };
    my @outcome = !$@ ? (value => $value) : (error => ref $@ ? $@ : {kind => "other", name => "die", message => $@});
    my @look = defined $r->{look} ? (entries => Outbox::get(), text => $Outbox::cache->{$r->{look}}) : ();
    $told = 0 if $r->{op} =~ /^(open|close)$/;
    print $JSON->encode({n => $r->{n}, notified => $Outbox::notified - $told, @outcome, @look}), "\n";
    $told = $Outbox::notified;
    last if $r->{op} eq "stop";
}
