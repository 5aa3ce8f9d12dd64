# A small outbox in Perl, with nothing installed: what example.pl drives. Values stay the JSON text that they came as,
# so no number is rounded or respelled. It takes every item, has no disk, and reads only texts that are as they should.
package Outbox;
use v5.20;
use warnings FATAL => "all";
use experimental "signatures";
use JSON::PP;
use List::Util qw(pairgrep pairkeys);

our ($cache, $key, $clock, $notified, @queue) = (undef, "", undef, 0);    # cache: stored texts by key
my $JSON = JSON::PP->new->allow_nonref;
my $VALUE = qr/("[^"\\]*+(?:\\.[^"\\]*+)*+"|[^][{},:"\s]++|[[{](?:[,:\s]++|(?1))*+[]}])/s;

# What an array or an object holds, as JSON texts; of an object: name, value, name, value.
sub parts ($text) { $text =~ /^\s*[[{](.*)[]}]\s*$/s ? $1 =~ /$VALUE/g : die "no array and no object\n" }

# An entry maps names to values, both as JSON text; beside them stand its decoded id and the order of the names.
sub entry (@parts) { my %of = @parts; return {%of, id => $JSON->decode($of{'"id"'}), names => [pairkeys @parts]} }
sub freed ($entry) { $entry->{'"status"'} =~ s/^"sending"$/"queued"/; return $entry }    # whoever claimed it is gone
sub object ($entry) { "{" . join(",", map { "$_:$entry->{$_}" } @{$entry->{names}}) . "}" }
sub array (@entries) { "[" . join(",", map { object($_) } @entries) . "]" }
sub named ($id) { grep { $_->{id} eq $id } @queue }
sub in ($status, @entries) { grep { $_->{'"status"'} eq qq("$status") } @entries }
sub says ($json, $string) { $json =~ /^"/ && $JSON->decode($json) eq $string }
sub has ($item, $name, $string) { $item =~ /^\{/ && pairgrep { says($a, $name) && says($b, $string) } parts($item) }
sub commit () { $cache->{$key} = array(@queue) if $key ne ""; $notified++; return }
sub mark ($status, @entries) { $_->{'"status"'} = qq("$status") for @entries; commit() }
sub become ($to, @entries) { ($key, @queue) = ($to, @entries); $notified++; return }

sub start ($texts) { ($cache, $key, $notified, @queue) = ($texts, "", 0); return }
sub hydrate ($to) { become($to, map { freed(entry(parts($_))) } parts($cache->{$to} // "[]")) }
sub clear () { become("") }
sub get () { array(@queue) }
sub pending ($name, $string) { array(grep { !defined $name || has($_->{'"item"'}, $name, $string) } @queue) }
sub remove ($id) { @queue = grep { $_->{id} ne $id } @queue; commit() }
sub retry ($id) { mark("queued", named($id)) }
sub mark_failed ($id) { fail(0, named($id)) }
sub record_failure ($id, $most) { fail($most, named($id)) }
sub fail ($most, @entries) { mark((grep { ++$_->{'"attempts"'} >= $most } @entries) ? "failed" : "queued", @entries) }

sub enqueue ($id, $item, $at) {
    return if named($id);
    my ($name, $when) = ($JSON->encode($id), $at // $clock // 1000 * time);
    push @queue, entry(parts(qq({"id":$name,"item":$item,"status":"queued","attempts":0,"enqueuedAt":$when})));
    commit();
}

sub claim ($id) {
    my $free = named($id) && !in("sending", named($id));
    mark("sending", named($id)) if $free;
    return $free ? JSON::PP::true : JSON::PP::false;
}

# Send what is queued: $send dies when it fails. Answers how many were sent and how many parked.
sub drain ($send, $most) {
    my ($sent, $failed) = (0, 0);
    for my $entry (my @todo = in("queued", @queue)) {
        my $seen = object($entry);
        mark("sending", $entry);
        if (eval { $send->($entry->{id}, $seen); 1 }) { remove($entry->{id}); $sent++; next }
        fail($most // 5, $entry);
        $failed += in("failed", $entry);
    }
    return (sent => $sent, failed => $failed);
}

1;
