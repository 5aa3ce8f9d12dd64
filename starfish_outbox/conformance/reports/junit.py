"""A run as the JUnit XML that CI systems read (the form of Ant's task, which every one of them takes).

Red in CI is exactly what keeps the run from succeeding. A failure that is listed as known is shown as skipped, with
what is known; a listed case that passes is a failure, so that somebody takes it off the list.
"""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree import ElementTree as ET

from starfish_outbox.conformance.reports.report import Report
from starfish_outbox.conformance.reports.showing import spell_out_for_xml
from starfish_outbox.conformance.verdicts import Result, Verdict


def junit_xml(report: Report) -> str:
    """One test suite for each driver, and one for each pair, as an XML document in UTF-8."""
    root = ET.Element("testsuites")
    names = dict.fromkeys((*((hello.name,) for hello in report.hellos), *(one.drivers for one in report.results)))
    for number, drivers in enumerate(names):
        results = [one for one in report.results if one.drivers == drivers]
        if results:
            root.append(_suite(report, number, drivers, results))
    ET.indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ET.tostring(root, "unicode")}\n'


def _suite(report: Report, number: int, drivers: Sequence[str], results: Sequence[Result]) -> ET.Element:
    suite = ET.Element("testsuite")
    properties = ET.SubElement(suite, "properties")
    about = {"runner": report.version, "seed": str(report.seed)}
    about |= {f"{hello.name} version": hello.version for hello in report.hellos if hello.name in drivers}
    for name, value in about.items():
        ET.SubElement(properties, "property", name=_one_line(name), value=_one_line(value))
    for result in results:
        suite.append(_case(result, " + ".join(drivers)))
    ET.SubElement(suite, "system-out").text = spell_out_for_xml("\n".join(_notes(report, results)))
    ET.SubElement(suite, "system-err")
    tags = [child.tag for case in suite.iter("testcase") for child in case]
    suite.attrib = {
        "name": _one_line(" + ".join(drivers)),
        "package": "conformance",
        "id": str(number),
        "hostname": "localhost",
        "timestamp": report.started.strftime("%Y-%m-%dT%H:%M:%S"),  # the form has no place for a time zone
        "time": f"{sum(result.seconds for result in results):.3f}",
        "tests": str(len(results)),
        "failures": str(tags.count("failure")),
        "errors": str(tags.count("error")),
        "skipped": str(tags.count("skipped")),
    }
    return suite


def _case(result: Result, drivers: str) -> ET.Element:
    subject = result.subject
    case = ET.Element(
        "testcase",
        name=_one_line(subject.id),
        classname=_one_line(f"{drivers}.{subject.profile}"),
        time=f"{result.seconds:.3f}",
    )
    if result.surprise is not None:
        tag = "error" if result.verdict is Verdict.ERROR else "failure"
        kind = "listed, and passes" if result.verdict.passes else result.verdict.value
        message = f"{result.surprise}. {subject.description}"
        told = ET.SubElement(case, tag, type=kind, message=_one_line(message))
        told.text = spell_out_for_xml("\n".join([*result.reasons, f"What a failure costs: {subject.cost}"]))
    elif not result.verdict.passes:
        known = f"known: {result.known.what}" if result.known else "; ".join(result.reasons)
        ET.SubElement(case, "skipped", message=_one_line(f"{result.verdict.value}; {known}"))
    return case


def _notes(report: Report, results: Sequence[Result]) -> list[str]:
    acceptable = [one for one in results if one.verdict is Verdict.ACCEPTABLE]
    return [*report.notes, *(f"{one.subject.id} is acceptable: {'; '.join(one.reasons)}" for one in acceptable)]


def _one_line(text: str) -> str:
    return " ".join(spell_out_for_xml(text).split())
