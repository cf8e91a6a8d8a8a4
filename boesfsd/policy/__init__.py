# SPDX-License-Identifier: Apache-2.0
"""What a function may do with files: two spellings, their common form, its table and its judge. Nothing here touches
the world."""
