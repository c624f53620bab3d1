"""Runs CPython's own tests of its unwinder, and says of each how it ended: one line of JSON.

The first word is a part of the names of those that are to run, the others of those that are left out.
"""

import json
import os
import sys
import unittest

from test import test_external_inspection


class Result(unittest.TestResult):
    def startTest(self, test):
        super().startTest(test)
        self.failed = None
        self.skipped_for = None
        self.before = os.path.getsize(os.environ["CONCMON_LOOKS"])

    def _whole(self, holder, **how):
        """What went wrong outside of any test: while a class or a module was set up, which then runs none."""
        line = {"test": f"{holder.description} of CPython's tests", "failed": None, "skipped": None, "looks": 0} | how
        print(json.dumps(line), file=sys.__stdout__, flush=True)

    def _note(self, error):
        said = str(error[1]).strip().splitlines() or [""]
        # Differences are told below the first line.
        self.failed = self.failed or f"{error[0].__name__}: {said[0]}"

    def addError(self, test, error):
        if not isinstance(test, unittest.TestCase):
            self._whole(test, failed=f"{error[0].__name__}: {error[1]}")
            return
        self._note(error)

    def addFailure(self, test, error):
        self._note(error)

    def addSubTest(self, test, subtest, error):
        if error:
            self._note(error)

    def addSkip(self, test, reason):
        if not isinstance(test, unittest.TestCase):
            self._whole(test, skipped=reason)
            return
        self.skipped_for = reason

    def stopTest(self, test):
        looks = os.path.getsize(os.environ["CONCMON_LOOKS"]) - self.before
        line = {"test": name_of(test), "failed": self.failed, "skipped": self.skipped_for, "looks": looks}
        print(json.dumps(line), file=sys.__stdout__, flush=True)
        super().stopTest(test)


def tests(suite):
    for one in suite:
        if isinstance(one, unittest.TestSuite):
            yield from tests(one)
        else:
            yield one


def name_of(test):
    return ".".join(test.id().split(".")[-2:])


wanted, *left_out = sys.argv[1:]
chosen = unittest.TestSuite()
for one in tests(unittest.defaultTestLoader.loadTestsFromModule(test_external_inspection)):
    name = name_of(one)
    if wanted not in name:
        continue
    if any(part in name for part in left_out):
        print(json.dumps({"test": name, "left_out": True}), flush=True)
    else:
        chosen.addTest(one)
chosen.run(Result())
