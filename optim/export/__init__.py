"""Files that leave the package: tables and lab sheets."""
