import math

import numpy as np
import pytest
from tests.tables import analytic_table

from coinfer.graph.zoo import networks
from coinfer.profile.devices import WORK_FLOP, device_class, device_slowdown, names
from coinfer.profile.table import ProfileError


def test_every_class_cites_a_source_and_lists_networks():
    assert len(names()) >= 15
    for device in map(device_class, names()):
        assert "github:" in device.source
        assert {"resnet50", "mobilenetv2"} <= set(device.latency_s) <= set(WORK_FLOP)
        assert all(0.0005 < seconds < 2 for seconds in device.latency_s.values())


def test_the_catalogue_orders_machines_as_everybody_knows_them():
    order = [
        "raspberry-pi-zero-2",
        "raspberry-pi-3",
        "raspberry-pi-4",
        "raspberry-pi-5",
        "jetson-orin-nano",
        "server-gpu",
    ]
    assert [name for name in names() if name in order] == order
    assert device_class("jetson-nano").latency_s["vgg16"] == pytest.approx(0.310, abs=0.002)


def test_an_unknown_class_is_refused_with_the_known_ones():
    with pytest.raises(ProfileError, match=r"no device class 'abacus'; there are .*raspberry-pi-4"):
        device_class("abacus")


def test_a_listed_network_slows_down_by_the_published_latency():
    table = analytic_table(networks.build("mobilenetv2"), whole_s=0.0055)
    assert device_slowdown("raspberry-pi-4", table) == pytest.approx(0.06188 / 0.0055)
    assert device_slowdown("server-gpu", table) < 1


def test_a_network_that_is_not_listed_is_placed_by_its_arithmetic():
    pi = device_class("raspberry-pi-4")
    small, large = pi.network_s("mine", 1e9), pi.network_s("mine", 20e9)
    assert pi.latency_s["mobilenetv2"] < small < large < pi.latency_s["vgg16"]


def test_the_stated_error_of_unlisted_networks_is_true():
    factors = []
    for device in map(device_class, names()):
        for left_out in device.latency_s:
            rest = {name: seconds for name, seconds in device.latency_s.items() if name != left_out}
            guess_s = device._replace(latency_s=rest).network_s(left_out, WORK_FLOP[left_out])
            factors.append(abs(math.log(guess_s / device.latency_s[left_out])))
    assert math.exp(np.median(factors)) < 1.35
    assert math.exp(np.quantile(factors, 0.9)) < 1.75


def test_arithmetic_of_the_listed_networks_is_that_of_the_zoo():
    for name in ("alexnet", "vgg16", "resnet50", "mobilenetv2", "googlenet"):
        assert networks.build(name).work_flop == pytest.approx(WORK_FLOP[name], rel=0.06)
