# SPDX-License-Identifier: Apache-2.0
"""What runners of KTAP programs share: two hosts with pspd in them, and the judgement of a document."""
import contextlib
import os
import pathlib
import re
import signal
import subprocess
import time
import xml.etree.ElementTree as ET

LAB = pathlib.Path(__file__).resolve().parent.parent / "scripts" / "lab"
READY_S, STOP_S = 20, 10
CASE = re.compile(r"^(ok|not ok) (\d+) (.*?)(?: # SKIP(.*))?$")
PLAN = re.compile(r"^1\.\.(\d+)(?: # SKIP(.*))?$")


class Report:
    """One KTAP document, judged."""

    def __init__(self, name):
        self.name, self.cases, self.notes = name, [], []

    def read(self, text, status):
        plan, seen, why = None, set(), []
        lines = text.splitlines()
        if not lines or lines[0] != "KTAP version 1":
            self.fail("KTAP header", "the first line is not 'KTAP version 1'")
        for line in lines:
            case, is_plan = CASE.match(line), PLAN.match(line)
            if is_plan:
                plan = int(is_plan[1])
                if is_plan[2] is not None:
                    self.fail("plan", f"everything was skipped:{is_plan[2]}")
            elif case:
                problem = "; ".join(why) if case[1] == "not ok" else None
                if case[4] is not None:
                    problem = f"skipped:{case[4]}"
                if case[3] in seen or int(case[2]) != len(seen) + 1:
                    problem = "its name or its number is wrong or came before"
                seen.add(case[3])
                self.cases.append((case[3], problem if problem != "" else "not ok"))
                why = []
            elif line.startswith("#"):
                why.append(line[2:])
        if plan is None or plan != len(seen):
            self.fail("plan", f"{plan} cases were planned, {len(seen)} came")
        if status not in (0, 1):
            self.fail("end", f"the program ended with status {status}")

    def fail(self, name, why):
        self.cases.append((name, why))

    def failures(self):
        return [(name, why) for name, why in self.cases if why is not None]


class Host:
    """A namespace with pspd in it. `socket` is where pspd listens, or None for its default."""

    def __init__(self, netns, build, tmp, sock):
        self.netns, self.build, self.socket = netns, build, sock
        self.log = tmp / f"{netns}.log"
        self.processes = []

    def environment(self):
        return {**os.environ, **({"PSP_SOCKET": self.socket} if self.socket else {})}

    def command(self, *words):
        return [str(LAB), "in", self.netns, *map(str, words)]

    def start(self, *words):
        """Starts a program of which the first line of output says that it is ready."""
        process = subprocess.Popen(self.command(*words), env=self.environment(),
                                   stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.processes.append(process)
        return process

    def start_pspd(self, devices, *options):
        words = [self.build / "bin" / "pspd"]
        for device in devices:
            words += ["--dev", device]
        words += ["--enable", "all", *options]
        if self.socket:
            words += ["--socket", self.socket]
        with open(self.log, "w", encoding="utf-8") as log:
            process = subprocess.Popen(self.command(*words), stdout=log, stderr=log)
        self.processes.append(process)
        deadline = time.monotonic() + READY_S
        while "ready" not in self.log.read_text():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"pspd in {self.netns} is not ready:\n{self.log.read_text()}")
            time.sleep(0.05)

    def preloaded(self, *words):
        return [self.build / "bin" / "pspctl", "run", "--", *words]

    def serve(self, address):
        process = self.start(*self.preloaded(self.build / "ktap" / "psp_uapi", "--serve", address))
        line = process.stdout.readline()
        if line.strip() != "serving":
            raise RuntimeError(f"psp_uapi --serve {address}: {line}")

    def stop(self):
        for process in reversed(self.processes):
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stdout:
                process.stdout.close()
        self.processes = []


@contextlib.contextmanager
def lab(name):
    subprocess.run([LAB, "up", name], check=True)
    try:
        subprocess.run(["ip", "-n", f"{name}-a", "link", "add", "eth1", "type", "veth",
                        "peer", "name", "eth1-peer"], check=True)
        subprocess.run(["ip", "-n", f"{name}-a", "link", "set", "eth1", "up"], check=True)
        yield f"{name}-a", f"{name}-b"
    finally:
        subprocess.run([LAB, "down", name], check=False)


def write_xml(reports, program):
    """One XML file for the program, as a GoogleTest would write it; nothing without GTEST_OUTPUT."""
    where = os.environ.get("GTEST_OUTPUT", "")
    if not where.startswith("xml:"):
        return
    root = ET.Element("testsuites")
    for report in reports:
        suite = ET.SubElement(root, "testsuite", name=report.name)
        for name, why in report.cases:
            case = ET.SubElement(suite, "testcase", name=name, classname=report.name, status="run",
                                 result="completed")
            if why is not None:
                ET.SubElement(case, "failure", message=why)
    ET.ElementTree(root).write(pathlib.Path(where[4:]) / f"{program}.xml")
