"""Atheris: bytes that reach new code, through the targets of `fuzzing.py`: `python tests/fuzz.py --seconds 120`."""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["pytest_finetune", "tomllib"], enable_loader_override=False):
    import fuzzing


def fuzz(target: str, seconds: int) -> None:
    """Give a target bytes until the time is over, or one is a finding, which ends this process."""
    name, _, good = fuzzing.TARGETS[target]
    with tempfile.TemporaryDirectory() as place:
        corpus, folder, words = Path(place, "corpus"), Path(place, "read"), Path(place, "words")
        corpus.mkdir()
        folder.mkdir()
        (corpus / name).write_bytes(good)
        fuzzing.check(target, good, folder)  # imports what it needs, which is to take no input's time
        quoted = ("".join(map("\\x{:02x}".format, word)) for word in fuzzing.WORDS)
        words.write_text("".join(f'"{word}"\n' for word in quoted))
        limits = [f"-max_total_time={seconds}", f"-dict={words}", "-max_len=20000", "-timeout=20", "-rss_limit_mb=4096"]
        quiet = ["-verbosity=0", "-print_final_stats=1"]
        atheris.Setup([sys.argv[0], *limits, *quiet, str(corpus)], lambda data: fuzzing.check(target, data, folder))
        atheris.Fuzz()


def main() -> int:
    """Fuzz one target here, or each in a process of its own; return 1 where one has a finding."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="*", choices=[[], *fuzzing.TARGETS], help="which (all)")
    parser.add_argument("--seconds", type=int, default=120, help="of each target (120)")
    options = parser.parse_args()
    if len(options.targets) == 1:
        fuzz(options.targets[0], options.seconds)
    failed = []
    for target in options.targets or fuzzing.TARGETS:
        command = [sys.executable, __file__, target, f"--seconds={options.seconds}"]
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True, errors="replace", check=False)
        stats = dict(
            line.removeprefix("stat::").split(":", 1) for line in done.stderr.splitlines() if line[:6] == "stat::"
        )
        print(f"{target:<10} {stats.get('number_of_executed_units', '').strip():>10} inputs", end="  ")
        print("finding" if done.returncode else "nothing found", flush=True)
        if done.returncode:
            failed.append(target)
            print(done.stderr)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
