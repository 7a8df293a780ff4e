"""What the keywords of the worker's client become on the wire."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from hypothesis import given
from hypothesis import strategies as st

from lorry.combination import METHODS, combine_request
from lorry.errors import InvalidCombination, InvalidInput, InvalidSelection
from lorry.generation import generate_request
from lorry.scoring import score_item
from lorry.selection import parse_weighted, selection
from lorry.v1 import inference_pb2 as pb
from lorry.v1 import residency_pb2 as residency
from lorry.v1.types_pb2 import Selection, WeightedAdapter

PAIR = Selection(adapters=[WeightedAdapter(adapter="pirate"), WeightedAdapter(adapter="json", weight=0.5)])


class TestSelection:
    @pytest.mark.parametrize(
        ("spelling", "expected"),
        [
            ("pirate", Selection(adapters=[WeightedAdapter(adapter="pirate")])),
            (["pirate", ("json", 0.5)], PAIR),
            ({"json": 0.5}, Selection(adapters=[WeightedAdapter(adapter="json", weight=0.5)])),
            ({"off": 0}, Selection(adapters=[WeightedAdapter(adapter="off", weight=0)])),
            ([], Selection()),
        ],
    )
    def test_every_spelling_is_the_selection_it_says(self, spelling: object, expected: Selection) -> None:
        assert selection(spelling) == expected

    def test_the_command_line_writes_weights_behind_an_equals_sign(self) -> None:
        assert [parse_weighted("pirate"), parse_weighted("a/json:prod=-0.5")] == ["pirate", ("a/json:prod", -0.5)]

    @pytest.mark.parametrize("text", ["pirate=", "pirate=much", "pirate=0.5=1"])
    def test_a_weight_that_is_no_number_is_refused(self, text: str) -> None:
        with pytest.raises(InvalidSelection, match="number"):
            parse_weighted(text)

    @given(st.floats(allow_nan=False), st.from_regex(r"[a-z]{1,9}", fullmatch=True))
    def test_a_weight_survives_its_spelling(self, weight: float, name: str) -> None:
        assert parse_weighted(f"{name}={weight!r}") == (name, weight)


class TestGenerate:
    def test_a_prompt_alone_leaves_everything_to_the_worker(self) -> None:
        assert generate_request("Hello", {}) == pb.GenerateRequest(
            text="Hello", sampling=pb.Sampling(), stop=pb.StopConditions()
        )

    def test_messages_are_pairs_or_mappings(self) -> None:
        messages = [("system", "Be brief."), {"role": "user", "content": "Hello"}]
        chat = generate_request(None, {"messages": messages}).chat
        assert [(m.role, m.content) for m in chat.messages] == [("system", "Be brief."), ("user", "Hello")]

    @pytest.mark.parametrize("message", [{"role": "user"}, ("user",), ("user", 5), 5, ("user", "\ud800")])
    def test_a_message_has_a_role_and_a_content(self, message: Any) -> None:
        with pytest.raises(InvalidInput, match="role and a content"):
            generate_request(None, {"messages": [message]})
        with pytest.raises(InvalidInput, match=r"item 3: .*role and a content"):
            score_item({"messages": [message], "continuation": "a"}, 3)

    def test_tokens_are_taken_as_they_are(self) -> None:
        assert list(generate_request(None, {"tokens": [1, 2]}).tokens.ids) == [1, 2]

    @pytest.mark.parametrize(
        ("prompt", "options"), [(None, {}), ("a", {"tokens": [1]}), (None, {"messages": [], "tokens": []})]
    )
    def test_there_is_one_prompt(self, prompt: str | None, options: dict) -> None:
        with pytest.raises(InvalidInput, match="expected one of"):
            generate_request(prompt, options)

    def test_no_adapters_and_the_base_alone_are_two_things(self) -> None:
        assert generate_request("a", {}).WhichOneof("target") is None
        assert generate_request("a", {"adapters": []}).WhichOneof("target") == "selection"
        assert generate_request("a", {"route": "prod"}).route == "prod"

    def test_adapters_beside_a_route_are_refused(self) -> None:
        with pytest.raises(InvalidInput, match="both"):
            generate_request("a", {"adapters": "pirate", "route": "prod"})

    def test_zero_is_said_and_none_is_not(self) -> None:
        sampling = generate_request("a", {"temperature": 0, "seed": 0, "top_k": None}).sampling
        assert (sampling.HasField("temperature"), sampling.HasField("seed"), sampling.HasField("top_k")) == (
            True,
            True,
            False,
        )

    def test_every_option_arrives(self) -> None:
        request = generate_request(
            "a",
            {
                "adapters": ["pirate", ("json", 0.5)],
                "temperature": 0.5,
                "top_k": 5,
                "top_p": 0.5,
                "min_p": 0.25,
                "repetition_penalty": 1.5,
                "seed": 7,
                "max_new_tokens": 9,
                "stop": ["\n"],
                "stop_token_ids": [3],
                "ignore_eos": True,
                "logprobs": 0,
                "tenant": "team",
                "priority": -3,
                "begin_within": 1.5,
                "stream_interval": 8,
            },
        )
        assert request == pb.GenerateRequest(
            text="a",
            selection=PAIR,
            sampling=pb.Sampling(temperature=0.5, top_k=5, top_p=0.5, min_p=0.25, repetition_penalty=1.5, seed=7),
            stop=pb.StopConditions(max_new_tokens=9, strings=["\n"], token_ids=[3], ignore_eos=True),
            logprobs=0,
            tenant="team",
            priority=-3,
            begin_within=Duration(seconds=1, nanos=500_000_000),
            stream_interval=8,
        )

    @pytest.mark.parametrize("seconds", [float("nan"), float("inf"), 1e30])
    def test_a_span_that_cannot_be_written_down_is_refused(self, seconds: float) -> None:
        with pytest.raises(InvalidInput):
            generate_request("a", {"begin_within": seconds})

    def test_a_number_that_does_not_fit_the_wire_is_bad_input(self) -> None:
        with pytest.raises(InvalidInput):
            generate_request("a", {"seed": -1})

    def test_a_misspelt_option_is_a_mistake_of_the_program(self) -> None:
        with pytest.raises(TypeError, match="temprature"):
            generate_request("a", {"temprature": 1})


class TestCombine:
    def test_the_methods_are_the_contracts(self) -> None:
        pruning = ("magnitude_prune", "ties", "dare_linear", "dare_ties")
        assert set(METHODS) == {"linear", "cat", "sum", "svd", *pruning, *(f"{name}_svd" for name in pruning)}

    def test_a_method_without_parameters_is_still_named(self) -> None:
        assert combine_request("a", "cat", {}, None).WhichOneof("method") == "cat"

    def test_parameters_and_target_arrive(self) -> None:
        target = residency.PublishTarget(adapter="mix")
        parameters = {"density": 0.5, "majority_sign": "frequency", "seed": 3}
        assert combine_request(["pirate", ("json", 0.5)], "dare_ties", parameters, target) == residency.CombineRequest(
            sources=PAIR.adapters,
            dare_ties=residency.DareTiesMethod(density=0.5, majority_sign=residency.MAJORITY_SIGN_FREQUENCY, seed=3),
            publish=target,
        )

    @pytest.mark.parametrize(
        ("method", "parameters", "says"),
        [
            ("average", {}, "linear, cat"),
            ("ties", {}, "density"),
            ("cat", {"density": 1}, "no parameters"),
            ("svd", {"density": 1}, "rank, clamp_quantile"),
            ("ties", {"density": 0.5, "majority_sign": "loudest"}, "majority_sign"),
            ("ties", {"density": "half"}, "density"),
            ("svd", {"rank": 1 << 40}, "rank"),
        ],
    )
    def test_what_the_contract_does_not_know_is_refused(self, method: str, parameters: dict, says: str) -> None:
        with pytest.raises(InvalidCombination, match=says):
            combine_request(["a", "b"], method, parameters, None)
