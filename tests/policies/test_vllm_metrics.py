"""The metrics of several servers in one exposition."""

from prometheus_client.parser import text_string_to_metric_families

from policies.vllm_metrics import merged

ONE = """# HELP vllm:num_requests_running Running
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{model_name="base"} 2.0
# HELP vllm:generation_tokens_total Tokens
# TYPE vllm:generation_tokens_total counter
vllm:generation_tokens_total{model_name="base"} 100.0
# HELP vllm:ttft_seconds First token
# TYPE vllm:ttft_seconds histogram
vllm:ttft_seconds_bucket{le="0.1"} 3.0
vllm:ttft_seconds_bucket{le="+Inf"} 4.0
vllm:ttft_seconds_count 4.0
vllm:ttft_seconds_sum 0.5
# HELP python_info Python
# TYPE python_info gauge
python_info{version="3"} 1.0
"""


def samples(text: str) -> dict[tuple[str, str, str], float]:
    return {
        (sample.name, sample.labels.get("server", ""), sample.labels.get("le", "")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_servers_are_told_apart_and_each_family_stands_once() -> None:
    text = merged({"http://b": ONE.replace("2.0", "5.0"), "http://a": ONE})
    assert text.count("# TYPE vllm:num_requests_running gauge") == 1
    found = samples(text)
    assert found["vllm:num_requests_running", "http://a", ""] == 2.0
    assert found["vllm:num_requests_running", "http://b", ""] == 5.0
    assert found["vllm:generation_tokens_total", "http://a", ""] == 100.0
    assert found["vllm:ttft_seconds_bucket", "http://b", "+Inf"] == 4.0
    assert not any(name.startswith("python") for name, _, _ in found)


def test_a_server_that_cannot_be_read_is_left_out() -> None:
    assert (
        samples(merged({"http://a": ONE, "http://b": 'vllm:x{y="'})).keys()
        == samples(merged({"http://a": ONE})).keys()
    )
    assert merged({}) == ""
