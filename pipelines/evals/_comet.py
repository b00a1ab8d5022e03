"""Translations -> COMET scores, by a Python of its own: unbabel-comet needs older libraries than this project.

Source: Rei et al. 2020, COMET (arXiv 2009.09025); Rei et al. 2022, COMET-22 (2022.wmt-1.52).
"""

import json
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from pipelines.errors import UserError
from pipelines.registry import Strict

SCRIPT = """
import json, os, sys
import comet, torch
model, asked, answered, rows = sys.argv[1:]
with open(asked, encoding="utf-8") as lines:
    items = [json.loads(line) for line in lines]
loaded = comet.load_from_checkpoint(model if os.path.exists(model) else comet.download_model(model))
found = loaded.predict(items, batch_size=int(rows), gpus=int(torch.cuda.is_available()), progress_bar=False)
with open(answered, "w", encoding="utf-8") as out:
    json.dump([float(score) for score in found.scores], out)
"""
"""What runs there."""
FIND = "import importlib.util, sys; sys.exit(importlib.util.find_spec('comet') is None)"


class Comet(Strict):
    """A COMET model and the interpreter that can load it."""

    model: str
    """A checkpoint file (`.../checkpoints/model.ckpt`) or a hub id such as `Unbabel/wmt22-comet-da`."""
    python: str
    """The interpreter of an environment that has unbabel-comet: `/opt/comet/bin/python`."""
    batch: int = Field(16, gt=0)
    """Items a batch."""

    def check(self, where: str) -> None:
        """Raise ValueError where the interpreter or its package is not there."""
        if shutil.which(self.python) is None:
            raise UserError(
                f"{where}.python: no interpreter {self.python}. Needed: that of an environment with unbabel-comet, "
                f"'python -m venv comet && comet/bin/pip install unbabel-comet'. Correct the path, or remove 'comet'."
            )
        if subprocess.run([self.python, "-c", FIND], capture_output=True).returncode:
            raise UserError(
                f"{where}.python: {self.python} has no package 'comet'. Needed: unbabel-comet. Install it with "
                f"'{self.python} -m pip install unbabel-comet', or remove 'comet'."
            )

    def files(self) -> list[Path]:
        """The checkpoint, where it is a file."""
        return [Path(self.model)] if Path(self.model).is_file() else []

    def scores(self, where: str, src: list[str], outputs: list[str], references: list[str]) -> np.ndarray:
        """float64 [N], times 100: about 0 to 100, as WMT prints them."""
        with tempfile.TemporaryDirectory() as folder:
            asked, answered = Path(folder) / "asked.jsonl", Path(folder) / "answered.json"
            with asked.open("w", encoding="utf-8") as lines:
                for row in zip(src, outputs, references, strict=True):
                    lines.write(json.dumps(dict(zip(("src", "mt", "ref"), row, strict=True))) + "\n")
            command = [self.python, "-c", SCRIPT, self.model, str(asked), str(answered), str(self.batch)]
            ran = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            if ran.returncode:
                said = ran.stderr.decode(errors="replace").strip().splitlines()[-5:]
                raise UserError(
                    f"{where}: COMET failed in {self.python}: {' / '.join(said) or f'exit {ran.returncode}'}. Needed: "
                    f"a model that it can load. Correct '{self.model}', or remove 'comet'."
                )
            found: Any = json.loads(answered.read_text(encoding="utf-8"))
        scores = np.array(found, np.float64)
        if len(scores) != len(src) or not np.isfinite(scores).all():
            raise UserError(
                f"{where}: COMET gave {len(scores)} scores for {len(src)} items, {int(np.isfinite(scores).sum())} of "
                f"them finite. Needed: a finite one each. Check the model '{self.model}'."
            )
        return 100 * scores
