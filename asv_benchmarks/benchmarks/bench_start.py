"""What a user waits for before anything is computed: the import, and the first call with a cold and a warm cache."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time

from .common import api

FIRST_STEP = """
import numpy as np, numbacnn as nc
model = nc.create({name!r}, input_shape={shape!r}, classes=10, seed=0)
images = np.zeros((8, *{shape!r}), np.float32)
nc.Trainer(model).step(images, np.zeros(8, np.int64))
model.predict(images)
"""
SHAPES = {"lenet5": (28, 28, 1), "cnn": (32, 32, 3)}


class Import:
    def timeraw_import_numpy(self):
        return "import numpy"

    def timeraw_import(self):
        return "import numbacnn"


class FirstCall:
    """Seconds of a whole process that builds a network, trains one step and predicts."""

    params = [["lenet5", "cnn"], ["cold", "warm"]]
    param_names = ["network", "cache"]
    unit = "s"
    timeout = 600

    def setup(self, network, cache):
        api()
        self.folder = tempfile.TemporaryDirectory()
        if cache == "warm":
            self._run(network)

    def teardown(self, network, cache):
        self.folder.cleanup()

    def _run(self, network):
        program = FIRST_STEP.format(name=network, shape=SHAPES[network])
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", program], check=True, env={**os.environ, "NUMBACNN_CACHE_DIR": self.folder.name})
        return time.perf_counter() - started

    def track_first_call(self, network, cache):
        return self._run(network)
