/* One request by libcurl, its answer in memory that the caller has. */
#include "tools/http_ask.h"

#include <stdio.h>
#include <string.h>

static const long patience = 60000;     /* ms */

static size_t take(char *bytes, size_t one, size_t size, void *argument)
{
    struct http_answer *answer = argument;
    (void)one;
    if (answer->used + size >= sizeof answer->text) return 0;
    memcpy(answer->text + answer->used, bytes, size);
    answer->text[answer->used += size] = 0;
    return size;
}

long http_ask(CURL *curl, int port, const char *path, const char *body, size_t size, struct http_answer *answer)
{
    char url[256];
    long code = 0;
    answer->used = 0;
    answer->text[0] = 0;
    curl_easy_reset(curl);
    snprintf(url, sizeof url, "http://127.0.0.1:%d%s", port, path);
    curl_easy_setopt(curl, CURLOPT_URL, url);
    curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(curl, CURLOPT_PROXY, "");
    curl_easy_setopt(curl, CURLOPT_TIMEOUT_MS, patience);
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, take);
    curl_easy_setopt(curl, CURLOPT_WRITEDATA, answer);
    if (body) {
        curl_easy_setopt(curl, CURLOPT_POSTFIELDSIZE, (long)size);
        curl_easy_setopt(curl, CURLOPT_POSTFIELDS, body);
    }
    if (curl_easy_perform(curl) == CURLE_OK) curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &code);
    return code;
}
