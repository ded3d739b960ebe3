/* What the real-broker tests ask of Kafka, without starting a JVM for it.
 *     admin BROKERS create TOPIC:PARTITIONS...
 *     admin BROKERS delete-before TOPIC PARTITION OFFSET      the log then starts at OFFSET
 *     admin BROKERS delete TOPIC
 *     admin BROKERS grow TOPIC PARTITIONS                     to so many partitions
 *     admin BROKERS transaction ID commit|abort|open TOPIC PARTITION      the lines of stdin in one transaction; open:
 *                                                             neither committed nor aborted; a later one of the same ID
 *                                                             aborts it
 *     admin BROKERS allow|forbid PRINCIPAL OPERATION TYPE NAME     an ACL; forbid takes away what allow gave.
 *                                                             OPERATION: read write describe create; TYPE: topic
 *                                                             group
 *     admin BROKERS ends TOPIC                                a line a partition: partition, first offset, end
 *     admin BROKERS committed GROUP TOPIC                     a line a partition: partition, committed offset (-1:
 * none) */
#include <librdkafka/rdkafka.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { WAIT_MS = 30000, TOPICS_MAX = 64 };

static int fail(const char *what, const char *why)
{
    fprintf(stderr, "admin: %s: %s\n", what, why);
    return 1;
}

static rd_kafka_t *connect_to(const char *brokers, rd_kafka_type_t type, const char *group)
{
    char why[512];
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    rd_kafka_t *kafka;

    if (rd_kafka_conf_set(conf, "bootstrap.servers", brokers, why, sizeof why) != RD_KAFKA_CONF_OK ||
        (group && rd_kafka_conf_set(conf, "group.id", group, why, sizeof why) != RD_KAFKA_CONF_OK)) {
        rd_kafka_conf_destroy(conf);
        fail("configuration", why);
        return NULL;
    }
    kafka = rd_kafka_new(type, conf, why, sizeof why);
    if (!kafka) fail("client", why);
    return kafka;
}

/* Waits for the one result; true when the request as a whole went well. */
static bool answered(rd_kafka_queue_t *queue, const char *what, rd_kafka_event_t **event)
{
    *event = rd_kafka_queue_poll(queue, WAIT_MS);
    if (!*event) return fail(what, "no answer"), false;
    if (rd_kafka_event_error(*event)) return fail(what, rd_kafka_event_error_string(*event)), false;
    return true;
}

static int create(const char *brokers, int count, char **wanted)
{
    rd_kafka_t *kafka = connect_to(brokers, RD_KAFKA_PRODUCER, NULL);
    rd_kafka_NewTopic_t *topic[TOPICS_MAX];
    rd_kafka_queue_t *queue;
    rd_kafka_event_t *event;
    char why[512];
    int status = 1;

    if (!kafka || count > TOPICS_MAX) return 1;
    for (int i = 0; i < count; i++) {
        char *colon = strrchr(wanted[i], ':');
        int partitions = colon ? (int)strtol(colon + 1, NULL, 10) : 1;
        if (colon) *colon = '\0';
        topic[i] = rd_kafka_NewTopic_new(wanted[i], partitions, 1, why, sizeof why);
        if (!topic[i]) return fail(wanted[i], why);
    }
    queue = rd_kafka_queue_new(kafka);
    rd_kafka_CreateTopics(kafka, topic, (size_t)count, NULL, queue);
    if (answered(queue, "create", &event)) {
        size_t results = 0;
        const rd_kafka_topic_result_t **result =
            rd_kafka_CreateTopics_result_topics(rd_kafka_event_CreateTopics_result(event), &results);
        status = 0;
        for (size_t i = 0; i < results; i++)
            if (rd_kafka_topic_result_error(result[i]) != RD_KAFKA_RESP_ERR_NO_ERROR)
                status = fail(rd_kafka_topic_result_name(result[i]), rd_kafka_topic_result_error_string(result[i]));
    }
    if (event) rd_kafka_event_destroy(event);
    for (int i = 0; i < count; i++) rd_kafka_NewTopic_destroy(topic[i]);
    rd_kafka_queue_destroy(queue);
    rd_kafka_destroy(kafka);
    return status;
}

static int delete_before(const char *brokers, const char *topic, int partition, int64_t offset)
{
    rd_kafka_t *kafka = connect_to(brokers, RD_KAFKA_PRODUCER, NULL);
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(1);
    rd_kafka_DeleteRecords_t *request;
    rd_kafka_queue_t *queue;
    rd_kafka_event_t *event;
    int status;

    if (!kafka) return 1;
    rd_kafka_topic_partition_list_add(list, topic, partition)->offset = offset;
    request = rd_kafka_DeleteRecords_new(list);
    queue = rd_kafka_queue_new(kafka);
    rd_kafka_DeleteRecords(kafka, &request, 1, NULL, queue);
    status = answered(queue, "delete-before", &event) ? 0 : 1;
    if (event) rd_kafka_event_destroy(event);
    rd_kafka_DeleteRecords_destroy(request);
    rd_kafka_topic_partition_list_destroy(list);
    rd_kafka_queue_destroy(queue);
    rd_kafka_destroy(kafka);
    return status;
}

static int delete_topic(const char *brokers, char *topic)
{
    rd_kafka_t *kafka = connect_to(brokers, RD_KAFKA_PRODUCER, NULL);
    rd_kafka_DeleteTopic_t *request = rd_kafka_DeleteTopic_new(topic);
    rd_kafka_queue_t *queue;
    rd_kafka_event_t *event;
    int status;

    if (!kafka) return 1;
    queue = rd_kafka_queue_new(kafka);
    rd_kafka_DeleteTopics(kafka, &request, 1, NULL, queue);
    status = answered(queue, "delete", &event) ? 0 : 1;
    if (event) rd_kafka_event_destroy(event);
    rd_kafka_DeleteTopic_destroy(request);
    rd_kafka_queue_destroy(queue);
    rd_kafka_destroy(kafka);
    return status;
}

static int grow(const char *brokers, const char *topic, int partitions)
{
    rd_kafka_t *kafka = connect_to(brokers, RD_KAFKA_PRODUCER, NULL);
    char why[512];
    rd_kafka_NewPartitions_t *request =
        rd_kafka_NewPartitions_new(topic, (size_t)partitions, why, sizeof why);
    rd_kafka_queue_t *queue;
    rd_kafka_event_t *event;
    int status;

    if (!kafka || !request) return fail("grow", why);
    queue = rd_kafka_queue_new(kafka);
    rd_kafka_CreatePartitions(kafka, &request, 1, NULL, queue);
    status = answered(queue, "grow", &event) ? 0 : 1;
    if (event) rd_kafka_event_destroy(event);
    rd_kafka_NewPartitions_destroy(request);
    rd_kafka_queue_destroy(queue);
    rd_kafka_destroy(kafka);
    return status;
}

static int failed_transaction(const char *what, rd_kafka_error_t *error)
{
    int status = fail(what, rd_kafka_error_string(error));
    rd_kafka_error_destroy(error);
    return status;
}

static int transaction(const char *brokers, const char *id, const char *end, const char *topic, int partition)
{
    char why[512], *line = NULL;
    size_t room = 0;
    ssize_t length;
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    rd_kafka_error_t *error;
    rd_kafka_t *kafka;

    if (rd_kafka_conf_set(conf, "bootstrap.servers", brokers, why, sizeof why) ||
        rd_kafka_conf_set(conf, "transactional.id", id, why, sizeof why))
        return fail("configuration", why);
    if (!(kafka = rd_kafka_new(RD_KAFKA_PRODUCER, conf, why, sizeof why))) return fail("client", why);
    if ((error = rd_kafka_init_transactions(kafka, WAIT_MS))) return failed_transaction("init", error);
    if ((error = rd_kafka_begin_transaction(kafka))) return failed_transaction("begin", error);
    while ((length = getline(&line, &room, stdin)) > 0) {
        if (line[length - 1] == '\n') length--;
        rd_kafka_resp_err_t code =
            rd_kafka_producev(kafka, RD_KAFKA_V_TOPIC(topic), RD_KAFKA_V_PARTITION(partition),
                              RD_KAFKA_V_VALUE(line, (size_t)length), RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY),
                              RD_KAFKA_V_END);
        if (code) return fail("produce", rd_kafka_err2str(code));
    }
    free(line);
    if (rd_kafka_flush(kafka, WAIT_MS)) return fail("flush", "not delivered");
    if (strcmp(end, "commit") == 0 && (error = rd_kafka_commit_transaction(kafka, WAIT_MS)))
        return failed_transaction("commit", error);
    if (strcmp(end, "abort") == 0 && (error = rd_kafka_abort_transaction(kafka, WAIT_MS)))
        return failed_transaction("abort", error);
    rd_kafka_destroy(kafka);
    return 0;
}

static int partitions_of(rd_kafka_t *kafka, const char *topic)
{
    const struct rd_kafka_metadata *metadata;
    rd_kafka_topic_t *handle = rd_kafka_topic_new(kafka, topic, NULL);
    int count = -1;

    if (rd_kafka_metadata(kafka, 0, handle, &metadata, WAIT_MS) == RD_KAFKA_RESP_ERR_NO_ERROR) {
        count = metadata->topics[0].partition_cnt;
        rd_kafka_metadata_destroy(metadata);
    }
    rd_kafka_topic_destroy(handle);
    return count;
}

static int ends(const char *brokers, const char *topic)
{
    rd_kafka_t *kafka = connect_to(brokers, RD_KAFKA_PRODUCER, NULL);
    int count, status = 0;

    if (!kafka) return 1;
    count = partitions_of(kafka, topic);
    if (count < 0) status = fail(topic, "no metadata");
    for (int i = 0; i < count; i++) {
        int64_t first, end;
        rd_kafka_resp_err_t code = rd_kafka_query_watermark_offsets(kafka, topic, i, &first, &end, WAIT_MS);
        if (code) status = fail(topic, rd_kafka_err2str(code));
        else printf("%d %lld %lld\n", i, (long long)first, (long long)end);
    }
    rd_kafka_destroy(kafka);
    return status;
}

static int committed(const char *brokers, const char *group, const char *topic)
{
    rd_kafka_t *kafka = connect_to(brokers, RD_KAFKA_CONSUMER, group);
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(4);
    rd_kafka_resp_err_t code;
    int count, status = 0;

    if (!kafka) return 1;
    count = partitions_of(kafka, topic);
    for (int i = 0; i < count; i++) rd_kafka_topic_partition_list_add(list, topic, i);
    code = rd_kafka_committed(kafka, list, WAIT_MS);
    if (code || count < 0) status = fail(group, code ? rd_kafka_err2str(code) : "no metadata");
    else for (int i = 0; i < list->cnt; i++)
            printf("%d %lld\n", list->elems[i].partition,
                   list->elems[i].offset < 0 ? -1LL : (long long)list->elems[i].offset);
    rd_kafka_topic_partition_list_destroy(list);
    rd_kafka_consumer_close(kafka);
    rd_kafka_destroy(kafka);
    return status;
}

/* An ACL is given, or taken away again. */
static int change_acl(const char *brokers, bool allow, const char *principal, const char *operation, const char *type,
                      const char *name)
{
    static const struct { const char *name; rd_kafka_AclOperation_t is; } known[] = {
        { "read", RD_KAFKA_ACL_OPERATION_READ },       { "write", RD_KAFKA_ACL_OPERATION_WRITE },
        { "describe", RD_KAFKA_ACL_OPERATION_DESCRIBE }, { "create", RD_KAFKA_ACL_OPERATION_CREATE },
    };
    rd_kafka_AclOperation_t is = RD_KAFKA_ACL_OPERATION_UNKNOWN;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strcmp(known[i].name, operation) == 0) is = known[i].is;
    rd_kafka_t *kafka = connect_to(brokers, RD_KAFKA_PRODUCER, NULL);
    rd_kafka_event_t *event = NULL;
    char why[512];
    int status = 1;
    if (!kafka) return 1;
    rd_kafka_queue_t *queue = rd_kafka_queue_new(kafka);
    rd_kafka_ResourceType_t resource = strcmp(type, "group") == 0 ? RD_KAFKA_RESOURCE_GROUP : RD_KAFKA_RESOURCE_TOPIC;
    rd_kafka_AclBinding_t *acl =
        allow ? rd_kafka_AclBinding_new(resource, name, RD_KAFKA_RESOURCE_PATTERN_LITERAL, principal, "*", is,
                                        RD_KAFKA_ACL_PERMISSION_TYPE_ALLOW, why, sizeof why)
              : rd_kafka_AclBindingFilter_new(resource, name, RD_KAFKA_RESOURCE_PATTERN_LITERAL, principal, "*", is,
                                              RD_KAFKA_ACL_PERMISSION_TYPE_ALLOW, why, sizeof why);
    if (!acl) {
        fail("ACL", why);
        goto out;
    }
    if (allow) rd_kafka_CreateAcls(kafka, &acl, 1, NULL, queue);
    else rd_kafka_DeleteAcls(kafka, &acl, 1, NULL, queue);
    if (!answered(queue, "ACL", &event)) goto out;
    size_t count = 0;
    if (allow) {
        const rd_kafka_acl_result_t **result =
            rd_kafka_CreateAcls_result_acls(rd_kafka_event_CreateAcls_result(event), &count);
        const rd_kafka_error_t *error = count ? rd_kafka_acl_result_error(result[0]) : NULL;
        if (error) fail("ACL", rd_kafka_error_string(error));
        status = error || !count;
    } else {
        const rd_kafka_DeleteAcls_result_response_t **result =
            rd_kafka_DeleteAcls_result_responses(rd_kafka_event_DeleteAcls_result(event), &count);
        size_t matched = 0;
        if (count) rd_kafka_DeleteAcls_result_response_matching_acls(result[0], &matched);
        status = matched ? 0 : fail("ACL", "there is none to take away");
    }
out:
    if (event) rd_kafka_event_destroy(event);
    if (acl) rd_kafka_AclBinding_destroy(acl);
    rd_kafka_queue_destroy(queue);
    rd_kafka_destroy(kafka);
    return status;
}

int main(int count, char **argument)
{
    const char *verb = count > 2 ? argument[2] : "";

    if (strcmp(verb, "create") == 0 && count > 3) return create(argument[1], count - 3, argument + 3);
    if (strcmp(verb, "delete-before") == 0 && count == 6)
        return delete_before(argument[1], argument[3], (int)strtol(argument[4], NULL, 10),
                             strtoll(argument[5], NULL, 10));
    if (strcmp(verb, "delete") == 0 && count == 4) return delete_topic(argument[1], argument[3]);
    if (strcmp(verb, "grow") == 0 && count == 5)
        return grow(argument[1], argument[3], (int)strtol(argument[4], NULL, 10));
    if (strcmp(verb, "transaction") == 0 && count == 7)
        return transaction(argument[1], argument[3], argument[4], argument[5], (int)strtol(argument[6], NULL, 10));
    if ((strcmp(verb, "allow") == 0 || strcmp(verb, "forbid") == 0) && count == 7)
        return change_acl(argument[1], verb[0] == 'a', argument[3], argument[4], argument[5], argument[6]);
    if (strcmp(verb, "ends") == 0 && count == 4) return ends(argument[1], argument[3]);
    if (strcmp(verb, "committed") == 0 && count == 5) return committed(argument[1], argument[3], argument[4]);
    fprintf(stderr,
            "usage: admin BROKERS create TOPIC:PARTITIONS... | delete-before TOPIC PARTITION OFFSET | delete TOPIC | "
            "grow TOPIC PARTITIONS | transaction ID commit|abort|open TOPIC PARTITION | "
            "allow|forbid PRINCIPAL OPERATION TYPE NAME | ends TOPIC | committed GROUP TOPIC\n");
    return 2;
}
