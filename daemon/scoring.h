/* Requests -> examples -> a batch -> scores, with one checkpoint: what libcoldstream, coldstream-serve and
 * `coldstreamctl score` share. Values become keys by the decoder's own code (core/decode_fields), so that serving reads
 * what training read.
 *
 * A scorer is read-only once made: any number of threads may score with it at once, each with a scratch of its own. */
#ifndef DAEMON_SCORING_H
#define DAEMON_SCORING_H

#include "core/event.h"
#include "daemon/coldstream.h"
#include "storage/checkpoint.h"
#include "storage/delta_reader.h"
#include "storage/overlay.h"

struct scorer;
/* Features and towers from the checkpoint's own text, parameters from its tensors. Takes the checkpoint over on
 * success. */
struct scorer *scorer_create(struct checkpoint *checkpoint, struct cs_error *err);
void scorer_destroy(struct scorer *scorer);
struct checkpoint *scorer_checkpoint(const struct scorer *scorer);
uint64_t scorer_version(const struct scorer *scorer);          /* that its scores are named by */

/* The rows of a delta, for an overlay of this scorer or of another one over the same features. CS_REFUSED where it has
 * tables or rows that the model does not read. */
struct overlay_level *scorer_level(const struct scorer *scorer, const struct delta *delta, struct cs_error *err);
/* Another scorer over the same checkpoint, by the rows of the overlay first (which is copied) and the tensors of the
 * delta. Both scorers hold the checkpoint. CS_REFUSED where a tensor is missing or has another shape. */
struct scorer *scorer_create_over(const struct scorer *scorer, const struct overlay *overlay,
                                  const struct delta *delta, struct cs_error *err);

/* Memory that one thread scores in. It is made for a scorer, and may move to another with all that it has grown to. */
struct scoring;
struct scoring *scoring_create(struct scorer *scorer, struct cs_error *err);
/* layout: of the scorer it was at, which may be gone. False: it can only be destroyed. */
bool scoring_move(struct scoring *scoring, uint64_t layout, struct scorer *scorer, struct cs_error *err);
uint64_t scorer_layout(const struct scorer *scorer);
void scoring_destroy(struct scoring *scoring);

/* score [count]: the probability of a click, as the learner would score these examples with this version's state. */
void scoring_examples(struct scoring *scoring, struct example *const *example, size_t count, float *score);
/* One user, many candidates, as coldstream.h has them. CS_USAGE: the request is wrong. */
bool scoring_request(struct scoring *scoring, const struct coldstream_request *request, float *score, int *is_new,
                     struct cs_error *err);
bool scoring_impressions(struct scoring *scoring, const struct coldstream_impression *impression, size_t count,
                         float *score, unsigned char *is_new, struct cs_error *err);
/* {"requests":[...]} -> {"version":..., "scores":[...], "new":[...]}, malloc'd. scores[i] is a number for an impression
 * and a list for a request with candidates, new[i] a boolean. CS_USAGE: the request is wrong ("requests[0].item_id is
 * missing ..."), or it names another "version". *scores (NULL: not wanted): how many were given. */
bool scoring_json(struct scoring *scoring, const char *request, size_t length, char **response, size_t *scores,
                  struct cs_error *err);

/* The same in two steps, for who has to know which version is asked for, or how much, before one scores it. */
struct scoring_call;
struct scoring_limits { size_t requests, scores; };             /* most of a call; 0: any number */
/* NULL where it is wrong, or (*too_large) beyond the limits. */
struct scoring_call *scoring_call_read(const char *request, size_t length, const struct scoring_limits *limits,
                                       bool *too_large, struct cs_error *err);
void scoring_call_destroy(struct scoring_call *call);
uint64_t scoring_call_version(const struct scoring_call *call);         /* 0: none is named */
size_t scoring_call_scores(const struct scoring_call *call);            /* how many are asked for */
bool scoring_call_score(struct scoring *scoring, const struct scoring_call *call, char **response,
                        struct cs_error *err);

#endif
