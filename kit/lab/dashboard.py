"""`kit.dashboard`: a panel in a notebook. Widgets and figures are imported by the call, not with kit."""

import os
from pathlib import Path
from typing import Any

from kit.config import Config
from kit.errors import KitError
from kit.run.run import Run


def dashboard(config: Config | None = None, run: str | Path | Run | None = None, live: bool | None = None) -> Any:
    """A panel for a notebook cell, whose last line the call has to be: choose, start, pause, stop, resume; curves, τ
    and cells while the search runs.

    config: what the form begins with (None: the defaults). Its run, if there is one, is shown. run: a run, or its path,
    to look at instead; its configuration fills the form. live: True makes widgets, False none; None: in JupyterLab. The
    search is a process of its own and ends with the kernel; started again, it goes on from its last epoch.

    Without widgets the search runs in this process with lines for progress (or the given run is read), its figures are
    shown, and the finished run is returned. Raises KitError for a configuration or a run that is not one."""
    if not isinstance(config, (Config, type(None))) or (config and run):
        raise KitError("kit.dashboard takes a configuration, kit.dashboard(kit.Config(...)), or a run, run=path")
    shown = run if isinstance(run, Run) or run is None else Run.load(run)
    if "JPY_SESSION_NAME" in os.environ if live is None else live:
        from kit.lab.panel import Dashboard

        return Dashboard(config, shown)
    from kit import figures
    from kit.search.engine import search
    from kit.search.progress import Lines

    shown = shown or search(config or Config(), progress=Lines())
    for make in (figures.curves, figures.policy, figures.cells):
        figures.show(make(shown))
    return shown
