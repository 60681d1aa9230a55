"""The text that the edge server starts with."""

import pytest

from edge_constructs.edge_server import USER_DATA_LIMIT_BYTES, compose_user_data


def test_starts_with_an_interpreter_then_exports_then_the_script() -> None:
    text = compose_user_data({"REGION": "eu-west-1", "STAGE": "dev"}, "#!/bin/bash\nmain\n")

    assert text == (
        "#!/bin/bash\nexport EDGEWRIGHT_REGION='eu-west-1'\nexport EDGEWRIGHT_STAGE='dev'\n#!/bin/bash\nmain\n"
    )


@pytest.mark.parametrize("value", ["it's", "two\nlines"])
def test_refuses_a_value_that_would_end_its_quotes(value: str) -> None:
    with pytest.raises(ValueError, match="EDGEWRIGHT_STAGE must be free of single quotes and line breaks"):
        compose_user_data({"STAGE": value}, "")


def test_refuses_more_than_ec2_takes() -> None:
    with pytest.raises(ValueError, match=rf"must fit into {USER_DATA_LIMIT_BYTES} bytes, got 16397"):
        compose_user_data({}, "x" * (USER_DATA_LIMIT_BYTES + 1))
