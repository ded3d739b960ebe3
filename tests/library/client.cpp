// A C++ program that embeds the library: one user with candidates, two impressions, a pinned version, JSON.
// usage: client CHECKPOINTS        prints "new" and the scores, a line each
#include <coldstream.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

static std::atomic<int> swaps{0};

static void on_swap(void *argument, uint64_t, const char *error)
{
    if (!error) ++*static_cast<std::atomic<int> *>(argument);
}

static void fail(const char *what, const char *error)
{
    std::fprintf(stderr, "%s: %s\n", what, error);
    std::exit(1);
}

int main(int, char **arguments)
{
    char error[256] = "";
    coldstream_options options = {};
    options.size = sizeof options;
    options.follow = options.verify = 1;
    options.on_swap = on_swap;
    options.argument = &swaps;
    coldstream *cs = coldstream_open(arguments[1], &options, error, sizeof error);
    if (!cs) fail("open", error);
    coldstream *pinned = coldstream_pin(cs, 0, error, sizeof error);
    if (!pinned || coldstream_version(pinned) != coldstream_version(cs)) fail("pin", error);

    const coldstream_value user[] = {{"gender", "gender-1", 0}, {"age", nullptr, 30}}, context[] = {{"hour", "hour-2", 0}},
                           item[] = {{"price", nullptr, 12.5}};
    const char *const behavior[] = {"i1", "i2", "i3"};
    const std::vector<coldstream_candidate> candidates = {{"i4", item, 1}, {"i5", nullptr, 0}};
    coldstream_request request = {};
    request.size = sizeof request;
    request.user = user;
    request.user_count = 2;
    request.context = context;
    request.context_count = 1;
    request.behavior = behavior;
    request.behavior_count = 3;
    request.candidate = candidates.data();
    request.candidate_count = candidates.size();
    std::vector<float> score(candidates.size());
    int is_new = -1;
    if (coldstream_score(pinned, &request, score.data(), nullptr, &is_new, error, sizeof error)) fail("score", error);
    for (float one : score) std::printf("%d %.9g\n", is_new, static_cast<double>(one));

    coldstream_impression impression[2] = {};
    for (auto &one : impression) {
        one.user = user;
        one.user_count = 2;
        one.context = context;
        one.context_count = 1;
        one.item_id = "i4";
        one.item = item;
        one.item_count = 1;
    }
    impression[0].behavior = behavior;
    impression[0].behavior_count = 3;
    unsigned char are_new[2];
    if (coldstream_score_impressions(cs, impression, 2, sizeof *impression, score.data(), nullptr, are_new, error,
                                     sizeof error))
        fail("score_impressions", error);
    for (int i = 0; i < 2; i++) std::printf("%d %.9g\n", are_new[i], static_cast<double>(score[i]));

    char *response = nullptr;
    const std::string wrong = "{\"requests\":[{}]}";
    if (coldstream_score_json(cs, wrong.data(), wrong.size(), &response, error, sizeof error) != -1)
        fail("a wrong request", "was scored");
    coldstream_close(cs);
    coldstream_close(pinned);
}
