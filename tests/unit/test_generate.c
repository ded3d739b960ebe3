/* The synthetic stream: deterministic, well-formed, with the shares that were asked for, and learnable. */
#include <jansson.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tools/generate.h"

static struct generate_settings small(void)
{
    struct generate_settings settings;
    struct cs_error err;
    assert_true(generate_profile(&settings, "small", &err));
    return settings;
}

static uint64_t digest(const struct generate_settings *settings)
{
    struct generator *g = generator_create(settings, NULL);
    struct generated event;
    uint64_t hash = 14695981039346656037u;

    assert_non_null(g);
    while (generator_next(g, &event))
        for (size_t i = 0; i < event.value_length; i++) hash = (hash ^ (unsigned char)event.value[i]) * 1099511628211u;
    generator_destroy(g);
    return hash;
}

static void test_same_seed_same_stream(void **state)
{
    struct generate_settings settings = small();
    uint64_t first = digest(&settings);

    (void)state;
    assert_true(digest(&settings) == first);
    settings.seed++;
    assert_true(digest(&settings) != first);
}

static void test_events_are_as_the_interface_says(void **state)
{
    struct generate_settings settings = small();
    struct generator *g = generator_create(&settings, NULL);
    struct generated event;
    size_t count = 0, impressions = 0, new_ones = 0, clicks = 0;
    double least = INFINITY, most = 0;

    (void)state;
    while (generator_next(g, &event)) {
        json_t *json = json_loadb(event.value, event.value_length, 0, NULL);
        const char *kind = json_string_value(json_object_get(json, "event"));
        const char *id = json_string_value(json_object_get(json, "impression_id"));
        double ts = (double)json_integer_value(json_object_get(json, "ts"));

        assert_non_null(json);
        assert_non_null(kind);
        assert_true((int64_t)ts == event.time);
        assert_int_equal(strlen(id), event.key_length);
        assert_memory_equal(id, event.key, event.key_length);
        if (ts < least) least = ts;
        if (ts > most) most = ts;
        count++;
        if (strcmp(kind, "impression") == 0) {
            const json_t *behaviors = json_object_get(json, "behaviors");
            assert_int_equal(event.topic, GENERATED_IMPRESSION);
            assert_true(json_is_array(behaviors));
            assert_true((json_array_size(behaviors) == 0) == event.is_new);
            assert_true(json_array_size(behaviors) <= settings.behavior_max);
            assert_int_equal(json_object_size(json_object_get(json, "user")), settings.attributes);
            assert_true(json_is_integer(json_object_get(json_object_get(json, "user"), "age")));
            assert_true(json_is_string(json_object_get(json_object_get(json, "item"), "category")));
            assert_true(json_is_string(json_object_get(json, "item_id")) &&
                        json_is_string(json_object_get(json, "user_id")));
            assert_true(json_is_integer(json_object_get(json_object_get(json, "context"), "hour")));
            impressions++;
            new_ones += event.is_new;
        } else {
            assert_string_equal(kind, "click");
            assert_int_equal(event.topic, GENERATED_CLICK);
            clicks++;
        }
        json_decref(json);
    }
    generator_destroy(g);
    assert_int_equal(count, settings.events);
    assert_int_equal(count, impressions + clicks);
    assert_true(impressions > 0);
    assert_in_range(new_ones * 100 / impressions, 33, 47);
    assert_in_range(clicks * 100 / impressions, 8, 50);
    assert_true(least >= settings.start && most - least > settings.span * 0.7 && most - least < settings.span * 1.4);
}

static void test_joined_events_carry_their_labels(void **state)
{
    struct generate_settings settings = small();
    struct generated event;
    size_t clicked = 0;

    (void)state;
    assert_true(generate_set(&settings, "joined", "yes", NULL));
    struct generator *g = generator_create(&settings, NULL);
    while (generator_next(g, &event)) {
        json_t *json = json_loadb(event.value, event.value_length, 0, NULL);
        assert_int_equal(event.topic, GENERATED_EXAMPLE);
        assert_string_equal(json_string_value(json_object_get(json, "event")), "example");
        assert_true(json_is_boolean(json_object_get(json, "clicked")));
        clicked += json_is_true(json_object_get(json, "clicked"));
        json_decref(json);
    }
    generator_destroy(g);
    assert_in_range(clicked, settings.events / 12, settings.events / 2);
}

/* Two users with the same attributes are closer in what they would click than any two are. */
static void test_attributes_tell_the_taste(void **state)
{
    struct generate_settings settings = small();
    double told, untold;

    (void)state;
    settings.attributes = 2;
    settings.users = 4000;
    for (int pass = 0; pass < 2; pass++) {
        settings.attributes_say = pass ? 0 : 1;
        struct generator *g = generator_create(&settings, NULL);
        char *first = generator_request(g, 0, 3, 12), *user, *other;
        double sum = 0;
        size_t same = 0;

        user = strstr(first, "\"user\":");
        for (uint64_t u = 1; u < generator_new_users(g); u++) {
            other = generator_request(g, u, 3, 12);
            const char *there = strstr(other, "\"user\":");
            if (strncmp(user, there, strcspn(user, "}")) == 0)
                for (uint64_t i = 0; i < 50; i++, same++)
                    sum += fabs(generator_click_probability(g, 0, i, 12) - generator_click_probability(g, u, i, 12));
            free(other);
        }
        free(first);
        generator_destroy(g);
        assert_true(same > 0);
        if (pass) untold = sum / (double)same;
        else told = sum / (double)same;
    }
    assert_true(told < 1e-6);
    assert_true(untold > 0.05);
}

static void test_wrong_settings_are_refused(void **state)
{
    struct generate_settings settings = small();
    struct cs_error err = { 0 };

    (void)state;
    assert_false(generate_set(&settings, "new-share", "1.5", &err));
    assert_int_equal(err.code, CS_USAGE);
    assert_false(generate_set(&settings, "users", "12x", &err));
    assert_false(generate_set(&settings, "users", "1.5", &err));
    assert_false(generate_set(&settings, "user", "12", &err));
    assert_false(generate_set(&settings, "span", "3 parsecs", &err));
    assert_false(generate_profile(&settings, "no such profile", &err));
    assert_false(generate_profile(&settings, "/", &err));       /* it opens, and can't be read */
    assert_true(generate_set(&settings, "span", "2h", &err));
    assert_true(settings.span == 7200000);
}

static void test_profile_file(void **state)
{
    struct generate_settings settings;
    struct cs_error err = { 0 };
    char name[] = "/tmp/test_generate_XXXXXX";
    FILE *file = fdopen(mkstemp(name), "w");

    (void)state;
    fputs("# a world\nprofile: small\nusers: 1000\nnew_share: 0.1  # few\n", file);
    fclose(file);
    assert_true(generate_profile(&settings, name, &err));
    assert_int_equal(settings.users, 1000);
    assert_true(settings.new_share == 0.1);
    assert_int_equal(settings.items, 100);
    file = fopen(name, "w");
    fputs("users: 10\nitmes: 5\n", file);
    fclose(file);
    assert_false(generate_profile(&settings, name, &err));
    assert_int_equal(err.code, CS_CONFIG);
    assert_int_equal(err.at.major, 2);
    remove(name);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_same_seed_same_stream),
        cmocka_unit_test(test_events_are_as_the_interface_says),
        cmocka_unit_test(test_joined_events_carry_their_labels),
        cmocka_unit_test(test_attributes_tell_the_taste),
        cmocka_unit_test(test_wrong_settings_are_refused),
        cmocka_unit_test(test_profile_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
