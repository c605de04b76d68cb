"""The README's pictures of the live page, from the demo: real taxis, a real broker, a real browser.

python -m tests.benchmarks.pictures --seconds 120
"""

import argparse
import io
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image
from playwright.sync_api import expect, sync_playwright

HERE = Path(__file__).parent
MOST_BYTES = 200_000  # what a README may ask of who looks at it
COLOURS = 255  # in a picture: half of the bytes, and an eye sees no difference
PICTURES = {  # name: (width, height, colours)
    "page_light": (1280, 1180, "light"),
    "page_dark": (1280, 1180, "dark"),
    "page_phone": (390, 844, "light"),
}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--seconds", type=float, default=120, help="of streaming, before the pictures are taken")
    given = arguments.parse_args()
    with tempfile.NamedTemporaryFile("r") as said, sync_playwright() as playwright:
        command = [sys.executable, "-m", "pipeline", "demo", "--page", "--seconds", str(given.seconds + 120), "--json"]
        with Path(said.name).open("w") as err:
            demo = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=err)
        try:
            while not (where := re.search(r"http://\S+", Path(said.name).read_text())):
                assert demo.poll() is None, Path(said.name).read_text()
                time.sleep(0.2)
            browser = playwright.chromium.launch(
                executable_path=shutil.which("chromium"), args=["--no-sandbox"] if os.geteuid() == 0 else []
            )
            time.sleep(given.seconds)
            for name, (width, height, scheme) in PICTURES.items():
                context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
                page = context.new_page()
                page.goto(f"{where[0]}#series=nyc_taxi&lead=1")
                expect(page.locator("#state-text")).to_have_text("Live", timeout=60_000)
                expect(page.locator("#earlier canvas")).to_be_visible(timeout=60_000)
                page.wait_for_timeout(3_000)
                if scheme == "light" and width < height:
                    page.locator("#series-title").evaluate("title => title.scrollIntoView()")
                shot = Image.open(io.BytesIO(page.screenshot()))
                shot.convert("RGB").quantize(COLOURS, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(
                    HERE / f"{name}.png", optimize=True
                )
                size = (HERE / f"{name}.png").stat().st_size
                assert size < MOST_BYTES, f"{name}.png has {size} bytes"
                print(name, size, flush=True)
                context.close()
            browser.close()
        finally:
            demo.send_signal(signal.SIGINT)
            demo.wait(60)


if __name__ == "__main__":
    main()
