"""Published series in their own formats: meaning, unit and traps of each, on small files written here."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from forecasting.errors import DataError
from simulator.traces import load_trace

FISHER_HEAD = (
    "timestamp,load,blkio.throttle.io_service_bytes_Async,blkio.throttle.io_service_bytes_Read,"
    "container_cpu_usage_seconds_total,container_memory_active_file,container_memory_hierarchical_memory_limit,"
    "container_memory_rss,container_network_tcp_TimeWait,cpu.busy,mem.memused,net.if.in.bytes\n"
)


def write(path: Path, text: str) -> Path:
    """Write text, packed if the name says so."""
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def fisher(path: Path, cpu: list[float]) -> Path:
    rows = []
    for i, c in enumerate(cpu):
        when = f"2018-07-24T{1 + i // 6:02d}:{10 * (i % 6):02d}:00"
        rows.append(f"{when},{1.5 + i},1e12,{(-1) ** i * 1e9 + 2e9},{c},5e9,6e10,1e10,{i},5.0,29.0,1e7")
    return write(path, FISHER_HEAD + "\n".join(rows) + "\n")


def test_fisher_cpu_counter_becomes_cores_and_a_step_back_is_absent(tmp_path: Path) -> None:
    path = fisher(tmp_path / "container1.csv.gz", [6e14, 6e14 + 1.2e12, 5e14, 5e14 + 6e11])
    trace = load_trace(path)
    cpu = trace.panel.column("container_cpu_usage_seconds_total")
    assert trace.demand == trace.panel.names[0] == "load"
    assert trace.panel.step_s == 600.0
    np.testing.assert_allclose(cpu, [np.nan, 2.0, np.nan, 1.0])
    assert "1 steps back" in trace.notes[0]


def test_fisher_daily_excursion_of_the_cpu_counter_is_absent_on_both_edges(tmp_path: Path) -> None:
    use = [6e11, 6e11, 3e14, 6e11, 6e11, -2.9e14, 1.2e12, 6e11]
    path = fisher(tmp_path / "container2.csv", list(np.cumsum([6e15, *use])))
    trace = load_trace(path)
    cpu = trace.panel.column("container_cpu_usage_seconds_total")
    np.testing.assert_allclose(cpu, [np.nan, 1, 1, np.nan, 1, 1, np.nan, 2, 1], rtol=1e-3)
    assert "1 steps back of the counter and 1 jumps ahead of them are absent" in trace.notes[0]


def test_fisher_levels_units_and_jumping_blkio_stays_a_level(tmp_path: Path) -> None:
    panel = load_trace(fisher(tmp_path / "c.csv", [1.0, 2.0, 3.0])).panel
    by_name = {i.name: i for i in panel.indicators}
    assert by_name["load"].level == 1
    assert by_name["cpu.busy"].level == by_name["container_memory_rss"].level == by_name["net.if.in.bytes"].level == 2
    assert by_name["container_network_tcp_TimeWait"].level == 3
    read = by_name["blkio.throttle.io_service_bytes_Read"]
    assert (read.level, read.kind, read.unit) == (3, "gauge", "bytes")
    np.testing.assert_allclose(panel.column(read.name), [3e9, 1e9, 3e9])


def test_fisher_raw_keeps_counters_as_levels_in_file_order(tmp_path: Path) -> None:
    path = fisher(tmp_path / "c.csv", [6e14, 7e14, 5e14])
    panel = load_trace(path, raw=True).panel
    assert ",".join(("timestamp", *panel.names)) + "\n" == FISHER_HEAD
    np.testing.assert_allclose(panel.column("container_cpu_usage_seconds_total"), [6e14, 7e14, 5e14])
    assert panel.counters_as_rates() is panel


def test_burstgpt_counts_an_hour_become_rates(tmp_path: Path) -> None:
    text = "timestamp,conversation_requests,api_requests,all_requests\n0,36,0,36\n3600,72,3600,3672\n7200,0,0,0\n"
    trace = load_trace(write(tmp_path / "hourly.csv", text))
    np.testing.assert_allclose(trace.panel.column("conversation_requests"), [0.01, 0.02, 0.0])
    assert trace.panel.indicators[0].unit == "requests/s"
    assert not trace.panel.calendar
    assert load_trace(tmp_path / "hourly.csv", demand="all_requests").panel.names[0] == "all_requests"


def test_servegen_gap_is_absent_not_zero(tmp_path: Path) -> None:
    text = (
        "timestamp,rate_rps,active_clients,top_client_share,client_iat_cv_rate_weighted,gap\n"
        "0,14.5,21,0.5,1.6,0\n600,0,0,,,1\n1200,0.25,3,0.9,1.1,0\n"
    )
    trace = load_trace(write(tmp_path / "m_rate_10min.csv", text))
    np.testing.assert_allclose(trace.panel.column("rate_rps"), [14.5, np.nan, 0.25])
    np.testing.assert_allclose(trace.panel.column("active_clients"), [21, np.nan, 3])
    assert "gap" not in trace.panel.names
    assert "1 rows" in trace.notes[0]


def test_nasa_hurricane_zeros_are_absent_and_real_zeros_stay(tmp_path: Path) -> None:
    rows = ["1995-08-01T14:51:00-04:00,0", "1995-08-01T14:52:00-04:00,60", "1995-08-01T14:53:00-04:00,0"]
    rows += ["1995-08-01T14:54:00-04:00,0"]
    trace = load_trace(write(tmp_path / "aug.csv", "timestamp,requests\n" + "\n".join(rows)))
    np.testing.assert_allclose(trace.panel.column("requests"), [0.0, 1.0, np.nan, np.nan])
    ends = ["1995-08-03T04:35:00-04:00,0", "1995-08-03T04:36:00-04:00,9", "1995-08-03T04:37:00-04:00,0"]
    trace = load_trace(write(tmp_path / "end.csv", "timestamp,requests\n" + "\n".join(ends)))
    np.testing.assert_allclose(trace.panel.column("requests"), [np.nan, 0.15, 0.0])


def test_nab_goes_by_the_timestamps(tmp_path: Path) -> None:
    rows = ["2014-03-09T01:54:00,10", "2014-03-09T01:59:00,20", "2014-03-09T03:00:00,2", "2014-03-09T03:00:00,4"]
    rows += ["2014-03-09T03:04:00,30", "2014-03-09T03:09:00,40", "2014-03-09T03:14:00,50", "2014-03-09T03:19:00,60"]
    path = write(tmp_path / "ec2_disk_write_bytes_1.csv", "timestamp,value\n" + "\n".join(rows))
    trace = load_trace(path)
    column = trace.panel.column("value")
    assert trace.format == "nab"
    assert len(column) == 18
    np.testing.assert_allclose(column[:2], [10, 20])
    assert np.isnan(column[2:13]).all()
    np.testing.assert_allclose(column[13:], [3, 30, 40, 50, 60])
    assert "1 readings repeat" in trace.notes[0]
    assert "11 of 18 steps are missing" in trace.notes[1]


def test_nab_counts_become_rates_and_other_files_of_that_shape_are_not_nab(tmp_path: Path) -> None:
    text = "timestamp,value\n2014-07-01T00:00:00,1800\n2014-07-01T00:30:00,3600\n2014-07-01T01:00:00,0\n"
    taxi = load_trace(write(tmp_path / "nyc_taxi.csv", text))
    np.testing.assert_allclose(taxi.panel.column("value"), [1.0, 2.0, 0.0])
    repeated = write(tmp_path / "mine.csv", text + "2014-07-01T01:00:00,2\n")
    with pytest.raises(DataError, match=r"line 5: .* repeats the time"):
        load_trace(repeated)
    np.testing.assert_allclose(load_trace(repeated, format="nab").panel.column("value"), [1800, 3600, 1])
    own = load_trace(write(tmp_path / "mine.csv", text))
    assert own.format == "tidy"
    np.testing.assert_allclose(own.panel.column("value"), [1800, 3600, 0])


def test_helios_default_demand_is_running_gpus(tmp_path: Path) -> None:
    text = (
        "timestamp,total_gpu_num,running_gpu_num,pending_gpu_num,idle_gpu_num,gpu_allocated_fraction,total_job_num,"
        "running_job_num,pending_job_num,running_gpujob_num,pending_gpujob_num\n"
        "2020-05-01T00:00:00,64,14,2,50,0.219,5,5,0,5,0\n2020-05-01T00:01:00,64,15,0,49,0.234,5,5,0,5,0\n"
    )
    trace = load_trace(write(tmp_path / "vc.csv", text))
    assert (trace.demand, trace.format, trace.panel.indicators[0].unit) == ("running_gpu_num", "helios", "GPUs")
    assert "CC-BY-4.0" in trace.licence
    other = load_trace(tmp_path / "vc.csv", demand="pending_gpu_num").panel
    assert (other.names[0], other.indicators[0].level) == ("pending_gpu_num", 1)


def test_gentd26_events_that_did_not_happen_are_absent(tmp_path: Path) -> None:
    text = (
        "timestamp,generative_qps,api_qps_system,gpu_duty_mean_pct,queue_wait_count,queue_wait_mean_ms\n"
        "0,0,0.1,0.7,0,\n57,0.09,0.2,5.5,1,200\n114,0.18,0.3,6.5,0,\n"
    )
    trace = load_trace(write(tmp_path / "service_57s.csv", text))
    assert (trace.demand, trace.panel.step_s) == ("generative_qps", 57.0)
    np.testing.assert_allclose(trace.panel.column("queue_wait_mean_ms"), [np.nan, 200, np.nan])
    unit = {i.name: i.unit for i in trace.panel.indicators}
    assert (unit["queue_wait_mean_ms"], unit["queue_wait_count"]) == ("milliseconds", "events")


def test_gentd26_containers_one_at_a_time(tmp_path: Path) -> None:
    text = "timestamp,container,gpu_duty_pct\n0,c1,5\n57,c1,6\n114,c1,\n0,c2,7\n57,c2,8\n"
    path = write(tmp_path / "containers.csv", text)
    with pytest.raises(DataError, match=r"line 2, column 'container'.*where COLUMN=TEXT"):
        load_trace(path)
    panel = load_trace(path, where={"container": "c2"}).panel
    np.testing.assert_allclose(panel.column("gpu_duty_pct"), [7, 8])
    with pytest.raises(DataError, match=r"no row has container=c3; did you mean"):
        load_trace(path, where={"container": "c3"})
    with pytest.raises(DataError, match=r"no column 'containr'; did you mean 'container'"):
        load_trace(path, where={"containr": "c1"})


def test_dlrm_default_demand_is_the_most_varying_service(tmp_path: Path) -> None:
    text = "timestamp,app_0_CN,app_0_HN,app_4_CN\n0,100,10,0\n600,101,90,0\n1200,100,20,1\n"
    trace = load_trace(write(tmp_path / "alive.csv", text))
    assert (trace.demand, trace.panel.names) == ("app_0_HN", ("app_0_HN", "app_0_CN", "app_4_CN"))


@pytest.mark.parametrize(
    ("head", "demand", "key"),
    [
        ("timestamp,cpu_util,mem_util,assigned_mem,cycles_per_instruction", "cpu_util", "google2019"),
        (
            "timestamp,cpu_util_percent,mem_util_percent,net_in,net_out,disk_io_percent",
            "cpu_util_percent",
            "alibaba2018",
        ),
    ],
)
def test_cluster_series(tmp_path: Path, head: str, demand: str, key: str) -> None:
    width = head.count(",")
    text = head + "\n" + "\n".join(",".join([str(300 * i), *["0.5"] * width]) for i in range(3))
    trace = load_trace(write(tmp_path / "usage.csv", text))
    assert (trace.demand, trace.format, trace.panel.calendar) == (demand, key, False)


def test_a_named_format_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "timestamp,x\n0,1\n1,2\n")
    with pytest.raises(DataError, match="no column 'running_gpu_num'"):
        load_trace(path, format="helios")
