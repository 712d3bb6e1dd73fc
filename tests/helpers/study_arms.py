"""Where studies are, and one of three arms."""

from pathlib import Path

from configs import ablations

FOLDER = Path(ablations.__file__).parent
ROOT = FOLDER.parents[1]

THREE_ARMS = """
def get_study(config):
    arms = {"last": {"fusion.blocks": "last", "train.steps": 2}, "few": {"data.train_patients": 99}}
    return {"title": "T", "reference": "all", "arms": {"all": {}} | arms}
"""
