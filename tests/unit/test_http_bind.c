/* Where pages are answered, and what is said where they can't be. */
#include "daemon/http_bind.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static bool has_loopback6(void)
{
    char text[8192] = "";
    FILE *file = fopen("/proc/net/if_inet6", "re");
    if (file) text[fread(text, 1, sizeof text - 1, file)] = 0;
    if (file) fclose(file);
    return strstr(text, "00000000000000000000000000000001 ") != NULL;
}

/* The address that a socket listens at, as text. */
static void assert_listens(const char *address, const char *expected)
{
    struct cs_error err = { 0 };
    struct sockaddr_storage bound = { 0 };
    socklen_t size = sizeof bound;
    char text[INET6_ADDRSTRLEN];
    int handle = http_bind("http.listen", address, CS_CONFIG, &err);
    if (handle < 0) fail_msg("%s", err.message);
    assert_int_equal(getsockname(handle, (struct sockaddr *)&bound, &size), 0);
    const void *number = bound.ss_family == AF_INET ? (const void *)&((struct sockaddr_in *)&bound)->sin_addr
                                                    : &((struct sockaddr_in6 *)&bound)->sin6_addr;
    assert_string_equal(inet_ntop(bound.ss_family, number, text, sizeof text), expected);
    assert_int_not_equal(http_bind_port(handle), 0);
    close(handle);
}

static void addresses_are_numbers_or_names(void **state)
{
    (void)state;
    assert_listens("127.0.0.1:0", "127.0.0.1");
    assert_listens("127.8.9.10:0", "127.8.9.10");
    if (has_loopback6()) assert_listens("[::1]:0", "::1");
    assert_listens("localhost:0", "127.0.0.1");         /* whatever the resolver would put first */
}

static void assert_refused(const char *address, enum cs_code wrong, enum cs_code code, const char *message)
{
    struct cs_error err = { 0 };
    assert_int_equal(http_bind("--listen", address, wrong, &err), -1);
    assert_int_equal(err.code, code);
    if (strncmp(err.message, message, strlen(message)) != 0) fail_msg("%s", err.message);
}

static void what_is_no_address_is_told(void **state)
{
    (void)state;
    static const char *const bad[] = { "nonsense", "127.0.0.1", "127.0.0.1:", "127.0.0.1:http", "127.0.0.1:65536",
                                       "127.0.0.1:+80", "127.0.0.1: 80", "" };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char message[120];
        snprintf(message, sizeof message, "--listen: \"%s\" is no address:port, like ", bad[i]);
        assert_refused(bad[i], CS_USAGE, CS_USAGE, message);
        assert_refused(bad[i], CS_CONFIG, CS_CONFIG, message);
    }
    assert_refused("[::1:80", CS_USAGE, CS_USAGE, "--listen: \"[::1:80\": ");
}

static void what_is_taken_or_elsewhere_has_a_remedy(void **state)
{
    (void)state;
    struct cs_error err = { 0 };
    char address[32], message[160];
    int handle = http_bind("--listen", "127.0.0.1:0", CS_USAGE, &err);
    assert_true(handle >= 0);
    snprintf(address, sizeof address, "127.0.0.1:%d", http_bind_port(handle));
    snprintf(message, sizeof message, "--listen: can't listen on %s: Address already in use; another program has the "
             "port", address);
    assert_refused(address, CS_USAGE, CS_FAILED, message);
    close(handle);
    assert_refused("192.0.2.1:8080", CS_USAGE, CS_FAILED, "--listen: can't listen on 192.0.2.1:8080: Cannot assign "
                   "requested address; no interface of this machine has that address");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(addresses_are_numbers_or_names),
        cmocka_unit_test(what_is_no_address_is_told),
        cmocka_unit_test(what_is_taken_or_elsewhere_has_a_remedy),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
