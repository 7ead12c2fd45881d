"""`manage.py jobs_doctor [--json]`: is it in order, and if not, why, and what is to be done?"""

import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import asdict
from typing import Any

from ...doctor import Finding, examine
from ..terminal import TerminalCommand, counted


class Command(TerminalCommand):
    help = "Tell what is wrong with the jobs, and what to do. The exit code is 1 if there is an error."
    requires_system_checks = []  # It tells them itself, with the rest.

    def handle(self, **options: Any) -> None:
        with redirect_stdout(sys.stderr):  # The modules of tasks may print when they are imported.
            findings = examine()
        is_ok = not any(finding.level == "error" for finding in findings)
        if self.wants_json:
            self.show_json({"ok": is_ok, "findings": [asdict(finding) for finding in findings]})
        else:
            self._tell(findings)
        if not is_ok:
            sys.exit(1)

    def _tell(self, findings: Sequence[Finding]) -> None:
        styles = {"error": self.style.ERROR, "warning": self.style.WARNING, "ok": self.style.SUCCESS}
        for finding in findings:
            level = styles[finding.level](f"{finding.level:<7}")
            self._write(f"{level}  {finding.check}: {finding.found}")
            if finding.fix:
                self._write(f"         -> {finding.fix}")
        counts = Counter(finding.level for finding in findings)
        told = [counted(counts[level], level) for level in ("error", "warning") if counts[level]]
        self._write(f"\n{' and '.join(told)}." if told else "\nAll is in order.")

    def _write(self, line: str) -> None:
        encoding = getattr(self.stdout, "encoding", None) or "utf-8"
        self.stdout.write(line.encode(encoding, "backslashreplace").decode(encoding))
