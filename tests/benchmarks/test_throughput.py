"""python -m benchmarks.throughput: each part is timed alone, and all of them together."""

import json
import shutil

from benchmarks import throughput


def test_parts_and_the_whole_of_two_cases(finished_run, phantom, tmp_path, capsys):
    for number in (1, 2):
        image = phantom / f"task2/train_data/train_{number}/enhanced.nii.gz"
        shutil.copy(image, tmp_path / f"{number}.nii.gz")
    output = tmp_path / "throughput.json"
    line = [f"--workdir={finished_run}", f"--input={tmp_path}", f"--output={output}"]
    assert throughput.main(line) == 0
    row = json.loads(output.read_text())
    assert row["volumes"] == 2 and set(row["seconds"]) == {"reading", "computing", "writing"}
    assert 0 < row["device_share"] and all(value > 0 for value in row["seconds"].values())
    assert row["volumes_per_second"] * row["whole_seconds"] > 1.9
    assert "devices busy" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("1.nii.gz", "2.nii.gz", "throughput.json")
    ]
