"""`oppu demo` as a Space: the quickstart's run is made on the first start, then the page is served."""

import importlib
import os
import sys
import threading
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from oppu_core.data.types import Query, User
    from oppu_core.modeling.adapters import State
    from oppu_core.runs.run import Run
    from oppu_demo.engine import Answered

HERE = Path(__file__).resolve().parent
ZERO_GPU = os.getenv("SPACES_ZERO_GPU", "").lower() in ("1", "t", "true")
GPU_SECONDS = 15  # for one answer, including the start of a process for the first

# The Hub installs requirements.txt before it has the wheels, so they are unpacked here.
for wheel in (HERE / "wheels").glob("*.whl"):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(HERE / "packages")
sys.path.insert(0, str(HERE / "packages"))


def use_lent_gpus() -> None:
    """Answer for the run's people on the GPUs that ZeroGPU lends.

    ZeroGPU runs a decorated function in a process forked from this one: it sees this process's memory as of
    that moment, and only its result is returned. So the function takes ids and a query, and uses a copy of
    the model with which this process never computes: a fork during a training would find half-swapped
    weights and locks that are never released.

    The model is moved to the GPU within the function, not before. That is advised against for large models,
    but takes milliseconds for this one, and avoids the emulation of CUDA in this process.

    Visitors' own histories and adapters are not sent there. Their training and their answers stay on the CPU,
    where they can be watched, cancelled and forgotten.
    """
    spaces = importlib.import_module("spaces")  # before anything that may touch CUDA
    import gradio as gr
    import torch
    from oppu_demo import serve
    from oppu_demo.engine import Engine

    lent: list[Engine] = []
    on_gpu: Callable[[Callable[..., Answered]], Callable[..., Answered]] = spaces.GPU(duration=GPU_SECONDS)

    @on_gpu
    def answer_there(task: str, name: str, user_id: str, query: "Query") -> "Answered":
        engine = lent[0]
        torch.set_num_threads(1)  # OpenMP's threads are not forked, so waiting for them would never end
        engine.base.model.to("cuda")  # only the first time has an effect; the process may be reused
        return engine.answer(task, name, engine.users(task)[user_id], query)

    class LentEngine(Engine):
        """Answers on a lent GPU if possible, else here."""

        def __init__(self, run: "Run", device: str) -> None:
            super().__init__(run, device)
            lent[:] = [Engine(run, device)]

        def answer(
            self,
            task: str,
            name: str,
            user: "User",
            query: "Query",
            adapters: "Mapping[str, State] | None" = None,
        ) -> "Answered":
            """See :meth:`Engine.answer`."""
            if self.users(task).get(user.user_id) is user:
                try:
                    return answer_there(task, name, user.user_id, query)
                except gr.Error:  # no GPU is free, the visitor's quota is used up, or it failed there
                    pass
            return super().answer(task, name, user, query, adapters)

    vars(serve)["Engine"] = LentEngine


def main() -> None:
    """Serve the page at the address that the Hub expects."""
    if ZERO_GPU:
        use_lent_gpus()
    from oppu_core.cli.main import main as oppu

    os.chdir(HERE)  # for runs/
    host, port = os.getenv("GRADIO_SERVER_NAME", "0.0.0.0"), os.getenv("GRADIO_SERVER_PORT", "7860")
    sys.argv = ["oppu", "demo", "--host", host, "--port", port, "--no-browser"]
    if not ZERO_GPU:
        oppu()
        return
    # "auto" would take the emulated GPU here, and everything on this thread would go through the emulation.
    sys.argv += ["--device", "cpu"]
    page = threading.Thread(target=oppu)
    page.start()
    page.join()


if __name__ == "__main__":
    main()
