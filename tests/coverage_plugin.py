"""
The coverage report, printed by pytest before its last line, so that "N passed" ends the output of `make test`.

Only of use under `coverage run -m pytest -p tests.coverage_plugin`; does nothing without coverage.
"""

from io import StringIO

import pytest
from coverage import Coverage
from coverage.exceptions import NoDataError


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Adds up what this process and all that it started have covered."""
    running = Coverage.current()
    if running is None:
        return
    running.stop()
    running.save()
    whole = Coverage()
    report = StringIO()
    try:
        whole.combine(keep=True)
        whole.report(file=report)
    except NoDataError as error:
        report.write(f"{error}\n")
    terminalreporter.section("coverage")
    terminalreporter.write(report.getvalue())
