"""axe-core, the accessibility checker: `make axe` fetches it with npm, checks its hash, unpacks one file.

It is a tool of the tests (MPL 2.0) and is never committed: it lies in build/.
"""

import base64
import hashlib
import subprocess
import sys
import tarfile
from pathlib import Path

BUILD = Path(__file__).resolve().parent.parent / "build"
VERSION = "4.14.1"
INTEGRITY = "FHfa+lmNjQZfJz1q8wKqIDwC6DExcHt/pkjNQb09a3NPjCKg2rhu5qb2S4r76ASyFNNtuFooJpZe37OgudVGtQ=="
SCRIPT = BUILD / f"axe-core-{VERSION}.js"


def fetch() -> None:
    """Errors: `SystemExit` with a sentence when there is no npm, or the package is not the pinned one."""
    BUILD.mkdir(exist_ok=True)
    command = ["npm", "pack", "--silent", f"axe-core@{VERSION}", "--pack-destination", str(BUILD)]
    try:
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        sys.exit(
            f"expected npm to fetch axe-core {VERSION}, found {error}: install Node.js, or go online"
        )
    package = BUILD / f"axe-core-{VERSION}.tgz"
    found = base64.b64encode(hashlib.sha512(package.read_bytes()).digest()).decode()
    if found != INTEGRITY:
        sys.exit(f"expected axe-core with SHA-512 {INTEGRITY}, found {found}: do not use it")
    with tarfile.open(package, encoding="utf-8") as files:
        SCRIPT.write_bytes(files.extractfile("package/axe.min.js").read())
    package.unlink()


if __name__ == "__main__":
    fetch()
    print(f"written to {SCRIPT}", file=sys.stderr)
