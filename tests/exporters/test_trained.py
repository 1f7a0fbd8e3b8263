"""Every tier that this machine can make of the one trained model that is here: random weights flatter small numbers."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sa3_engines import bundle, tiers
from sa3_engines.errors import ParityError
from sa3_exporters import cli, targets
from sa3_exporters.targets import Tier


@pytest.mark.slow
@pytest.mark.parametrize("name", targets.NAMES)
def test_every_tier_of_nano_keeps_its_promise(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """The codec and the text encoder may stay exact in a tier; the transformer may not. bf16 rounds its weights, which
    are stored in fp16, below what `high` promises: that is refused, and nothing is published.
    """
    target = targets.load(name)
    if reason := target.why_not():
        pytest.skip(reason)
    offered = [tier for tier in target.tiers().values() if isinstance(tier, Tier)]
    out = tmp_path / "bundle"
    command = ["--model", "nano", "--target", name, "--out", str(out), "--precision"]
    if any(tier.type == "bf16" for tier in offered):
        assert cli.main([*command, tiers.HIGH]) == ParityError.exit_code and not out.exists()
        assert re.search(r"precision high \(bf16\): step .* high asks for a cosine of 0.9999", capsys.readouterr().err)
        offered = [tier for tier in offered if tier.type != "bf16"]
    assert cli.main([*command, ",".join(tier.name for tier in offered)]) == 0, capsys.readouterr().err
    made = bundle.read(out).tiers
    assert set(made) == {tier.name for tier in offered}
    for tier in offered:
        graphs = made[tier.name].graphs
        assert all(graph.cosine >= tiers.FLOORS[tier.name] for graph in graphs.values())
        assert tier.name == tiers.EXACT or graphs["step"].file != made[tiers.EXACT].graphs["step"].file
