"""Writes a bill of materials of this environment, and asks pip-audit about known vulnerabilities.

`python .ci/audit.py [sbom.json]`. Exits with 1 if a package has a known vulnerability. Without pip-audit
or its data it says so and exits with 0; the list is written in any case.
"""

import json
import subprocess
import sys
from importlib.metadata import distributions
from importlib.util import find_spec
from pathlib import Path
from typing import Any


def describe_environment() -> dict[str, Any]:
    """Returns the installed packages as CycloneDX 1.5 has them."""
    components = {
        (package.metadata["Name"].lower().replace("_", "-"), package.version)
        for package in distributions()
    }
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "components": [
            {
                "type": "library",
                "name": name,
                "version": version,
                "purl": f"pkg:pypi/{name}@{version}",
            }
            for name, version in sorted(components)
        ],
    }


def audit() -> int:
    """Runs pip-audit on this environment; returns 1 if it names a vulnerability."""
    if find_spec("pip_audit") is None:
        print("Skipped the audit: pip-audit is not installed (pip install pip-audit).")
        return 0
    command = [sys.executable, "-m", "pip_audit", "--format", "json", "--skip-editable"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        packages = json.loads(ran.stdout)["dependencies"]
    except (ValueError, KeyError):
        reason = (ran.stderr.strip().splitlines() or ["no answer"])[-1]
        print(f"Skipped the audit: the data on vulnerabilities cannot be had here ({reason[:200]}).")
        return 0
    vulnerable = [package for package in packages if package.get("vulns")]
    for package in vulnerable:
        names = ", ".join(entry["id"] for entry in package["vulns"])
        print(f"{package['name']} {package['version']}: {names}")
    print(f"{len(packages)} packages were checked; {len(vulnerable)} have a known vulnerability.")
    return 1 if vulnerable else 0


def main() -> int:
    file = Path(sys.argv[1] if len(sys.argv) > 1 else "sbom.json")
    bill = describe_environment()
    file.write_text(json.dumps(bill, indent=1) + "\n", encoding="utf-8")
    print(f"{file} lists {len(bill['components'])} packages.")
    return audit()


if __name__ == "__main__":
    sys.exit(main())
