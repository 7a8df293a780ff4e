"""Every rpc of the worker has a rule: read from the contract, so that a new one without a rule fails here."""

from compute_worker.rpc.rules import OPEN, RULES
from lorry.v1 import inference_pb2, residency_pb2

FILES = (inference_pb2.DESCRIPTOR, residency_pb2.DESCRIPTOR)


def test_there_is_a_rule_for_every_rpc_and_none_for_what_is_no_rpc() -> None:
    rpcs = {
        f"/{service.full_name}/{method.name}"
        for file in FILES
        for service in file.services_by_name.values()
        for method in service.methods
    }
    assert set(RULES) == rpcs
    assert not [method for method in rpcs if method.startswith(OPEN)]
