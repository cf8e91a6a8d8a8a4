# SPDX-License-Identifier: Apache-2.0
"""python3 -m boesfsd"""

import sys

from boesfsd.daemon import main

if __name__ == "__main__":
    sys.exit(main())
