/* address:port -> a socket that listens. */
#include "daemon/http_bind.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "daemon/log.h"

enum { WAITING = 512 };         /* connections that the kernel takes before we do */

static bool not_bound(const char *setting, const char *address, int number, struct cs_error *err)
{
    const char *remedy = number == EADDRINUSE ? "; another program has the port (`ss -ltnp` says which): a second "
                                                "instance needs one of its own, else stop the other"
                         : number == EADDRNOTAVAIL ? "; no interface of this machine has that address (`ip address`)"
                         : number == EACCES        ? "; ports below 1024 are root's: take a higher one"
                                                   : "";
    return cs_fail(err, CS_FAILED, "%s: can't listen on %s: %s%s", setting, address, strerrordesc_np(number), remedy);
}

static void warn_exposed(const char *setting, const struct sockaddr *bound)
{
    bool local = true;
    char text[INET6_ADDRSTRLEN] = "";
    if (bound->sa_family == AF_INET) {
        const struct sockaddr_in *four = (const void *)bound;
        local = ntohl(four->sin_addr.s_addr) >> 24 == 127;
        inet_ntop(AF_INET, &four->sin_addr, text, sizeof text);
    } else if (bound->sa_family == AF_INET6) {
        const struct sockaddr_in6 *six = (const void *)bound;
        local = IN6_IS_ADDR_LOOPBACK(&six->sin6_addr);
        inet_ntop(AF_INET6, &six->sin6_addr, text, sizeof text);
    }
    if (!local)
        log_warning("HTTP is answered to other machines, without TLS or users", LOG_S("setting", setting),
                    LOG_S("address", text),
                    LOG_S("remedy", "let a proxy or a firewall say who may ask, or listen on 127.0.0.1: "
                                    "docs/security.md"));
}

/* The first address of that name; to be freed. */
static struct addrinfo *find_address(const char *setting, const char *address, enum cs_code wrong, struct cs_error *err)
{
    char host[256];
    const char *colon = strrchr(address, ':'), *begin = address;
    size_t length = colon ? (size_t)(colon - address) : 0;
    if (length > 1 && *address == '[' && colon[-1] == ']') begin++, length -= 2;
    bool numeric = colon && colon[1] && strspn(colon + 1, "0123456789") == strlen(colon + 1) &&
                   strtoul(colon + 1, NULL, 10) <= UINT16_MAX;
    if (!numeric || length >= sizeof host) {
        cs_fail(err, wrong, "%s: \"%s\" is no address:port, like 127.0.0.1:9465 or [::1]:9465", setting, address);
        return NULL;
    }
    memcpy(host, begin, length);
    host[length] = 0;
    struct addrinfo hint = { .ai_flags = AI_PASSIVE | AI_NUMERICSERV, .ai_socktype = SOCK_STREAM }, *found = NULL;
    const char *name = strcmp(host, "localhost") == 0 ? "127.0.0.1" : length ? host : NULL;
    int code = getaddrinfo(name, colon + 1, &hint, &found);
    if (code) cs_fail(err, wrong, "%s: \"%s\": %s", setting, address, gai_strerror(code));
    return code ? NULL : found;
}

int http_bind(const char *setting, const char *address, enum cs_code wrong, struct cs_error *err)
{
    struct addrinfo *found = find_address(setting, address, wrong, err);
    if (!found) return -1;
    int one = 1, handle = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (handle < 0 || setsockopt(handle, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) ||
        bind(handle, found->ai_addr, found->ai_addrlen) || listen(handle, WAITING)) {
        not_bound(setting, address, errno, err);
        if (handle >= 0) close(handle);
        handle = -1;
    } else {
        warn_exposed(setting, found->ai_addr);
    }
    freeaddrinfo(found);
    return handle;
}

int http_bind_port(int socket)
{
    struct sockaddr_storage bound = { 0 };
    socklen_t size = sizeof bound;
    if (getsockname(socket, (struct sockaddr *)&bound, &size)) return 0;
    if (bound.ss_family == AF_INET6) return ntohs(((const struct sockaddr_in6 *)&bound)->sin6_port);
    return bound.ss_family == AF_INET ? ntohs(((const struct sockaddr_in *)&bound)->sin_port) : 0;
}
