"""What a run of the conformance cases came to, for people and for programs.

`report` holds the results; `jsonlines`, `junit` and `html` write them, each as one string; `terminal` shows them while
they come and at the end.
"""

from __future__ import annotations

from starfish_outbox.conformance.reports.html import html_page
from starfish_outbox.conformance.reports.jsonlines import json_lines, load
from starfish_outbox.conformance.reports.junit import junit_xml
from starfish_outbox.conformance.reports.report import Report

__all__ = ["Report", "html_page", "json_lines", "junit_xml", "load"]
