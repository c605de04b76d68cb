"""Our topics: what they must be like, what is said where they are not, and making them."""

import pytest
from kafka import KafkaAdminClient
from kafka.admin import (
    ACL,
    ACLOperation,
    ACLPermissionType,
    ACLResourcePatternType,
    ConfigResource,
    ConfigResourceType,
    ResourcePattern,
    ResourceType,
)
from kafka.errors import KafkaTimeoutError

from pipeline.broker import Broker, free_port
from pipeline.settings import KINDS
from pipeline.topics import MISSING, UNSEEN, Difference, TopicsError, Wanted, apply, offsets, plan, topic, wanted


def options(bootstrap):
    return {"bootstrap_servers": [bootstrap]}


def by_kind(prefix, partitions=3):
    return {w.name.split(".")[-2]: w for w in wanted(prefix, partitions)}


def test_there_is_one_topic_of_every_kind_with_the_prefix_and_a_version():
    assert [w.name for w in wanted("acme.fc", 3)] == [f"acme.fc.{kind}.v1" for kind in KINDS]


def test_what_is_a_log_is_deleted_by_age_and_what_is_a_table_is_compacted():
    policies = {kind: w.config["cleanup.policy"] for kind, w in by_kind("p").items()}
    assert {kind for kind, policy in policies.items() if policy == "compact"} == {"models", "status", "commits"}
    assert {kind for kind, policy in policies.items() if policy == "delete"} == {"forecasts", "scores", "late", "rejected", "decisions"}


def test_what_is_read_whole_and_in_order_has_one_partition():
    counts = {kind: w.partitions for kind, w in by_kind("p", partitions=7).items()}
    assert {kind for kind, count in counts.items() if count == 1} == {"models", "decisions", "status", "commits"}
    assert {count for count in counts.values() if count != 1} == {7}


def test_nobody_there_is_an_error_that_names_the_address_and_the_setting():
    nobody = f"127.0.0.1:{free_port()}"
    with pytest.raises(TopicsError, match=rf"{nobody}.*kafka.bootstrap"):
        plan(options(nobody), wanted("p", 1))


@pytest.mark.kafka
def test_apply_makes_what_is_missing_once_and_then_nothing_differs(kafka, name):
    want = wanted(name, 3)
    assert plan(options(kafka), want) == [Difference(w.name, MISSING, fatal=True) for w in want]
    assert apply(options(kafka), want, replication=-1) == [w.name for w in want]
    assert plan(options(kafka), want) == []
    assert apply(options(kafka), want, replication=-1) == []


@pytest.mark.kafka
def test_the_broker_holds_the_configuration_that_was_wanted(kafka, name):
    want = wanted(name, 3)
    apply(options(kafka), want, replication=1)
    admin = KafkaAdminClient(**options(kafka))
    try:
        asked = [ConfigResource(ConfigResourceType.TOPIC, w.name) for w in want]
        said = next(iter(admin.describe_configs(asked, config_filter="all").values()))
        counts = {t["name"]: len(t["partitions"]) for t in admin.describe_topics([w.name for w in want])}
    finally:
        admin.close()
    assert counts == {w.name: w.partitions for w in want}
    for w in want:
        assert {key: said[w.name][key]["value"] for key in w.config} == dict(w.config)


@pytest.mark.kafka
def test_a_topic_with_the_wrong_policy_or_partitions_is_told_and_left_alone(kafka, name):
    apply(options(kafka), [Wanted(topic(name, "commits"), 2, {"cleanup.policy": "delete"})], replication=-1)
    want = [by_kind(name)["commits"]]
    found = plan(options(kafka), want)
    assert [d.what for d in found] == ["has cleanup.policy delete, want compact", "has 2 partitions, want 1"]
    assert all(d.fatal for d in found)
    assert apply(options(kafka), want, replication=-1) == []
    assert plan(options(kafka), want) == found


@pytest.mark.kafka
def test_more_replicas_than_brokers_is_an_error_that_names_the_topics(kafka, name):
    with pytest.raises(TopicsError, match=rf"{topic(name, 'late')}.*cannot be made"):
        apply(options(kafka), [by_kind(name)["late"]], replication=2)


@pytest.mark.kafka
def test_a_missing_right_is_named(tmp_path):
    guarded = {
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "allow.everyone.if.no.acl.found": "true",
    }
    with Broker(tmp_path / "kafka", die_with_parent=True, properties=guarded) as broker:
        cluster = ResourcePattern(ResourceType.CLUSTER, "kafka-cluster")
        rule(broker.bootstrap, cluster, ACLOperation.ALL, ACLPermissionType.ALLOW)  # brokers are users of it too
        for resource in (cluster, ResourcePattern(ResourceType.TOPIC, "p", ACLResourcePatternType.PREFIXED)):
            rule(broker.bootstrap, resource, ACLOperation.CREATE, ACLPermissionType.DENY)
        with pytest.raises(TopicsError, match=r"p\d+.late.v1 cannot be made.*CREATE"):
            apply_on(broker.bootstrap)
        assert [d.what for d in plan(options(broker.bootstrap), [by_kind("p-late")["late"]])] == [UNSEEN]


def apply_on(bootstrap):
    for number in range(20):  # a broker learns a rule a moment after it was made
        apply(options(bootstrap), [by_kind(f"p{number}")["late"]], replication=-1)


def rule(bootstrap, resource, operation, permission):
    admin = KafkaAdminClient(bootstrap_servers=bootstrap)
    try:
        admin.create_acls([ACL("User:ANONYMOUS", "*", operation, permission, resource)])
    finally:
        admin.close()


def test_a_partition_that_the_client_forgets_is_no_answer_and_no_bug():
    def forgetful(partitions, timeout_ms):
        return {partition: {}[partition] for partition in partitions}

    def knowing(partitions, timeout_ms):
        return dict.fromkeys(partitions, timeout_ms)

    with pytest.raises(KafkaTimeoutError, match="nobody says where"):
        offsets(forgetful, ["scores/1"], timeout_ms=5)
    assert offsets(knowing, ["scores/1"], timeout_ms=5) == {"scores/1": 5}
