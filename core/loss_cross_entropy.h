/* Binary cross-entropy on the logit z: BCE(y) = log(1 + e^z) - y z, mean over the batch, summed in double.
 * A correction (a late click whose example was learned as a negative) counts BCE(1) - BCE(0) = -z: the click's loss,
 * with the fake negative's taken back. */
#ifndef CORE_LOSS_CROSS_ENTROPY_H
#define CORE_LOSS_CROSS_ENTROPY_H

#include <stddef.h>
#include <stdint.h>

/* Returns the mean; dlogit [n] = its gradient. correction may be NULL. */
double cross_entropy(size_t n, const float *logit, const uint8_t *label, const uint8_t *correction, float *dlogit);
void sigmoid(size_t n, const float *logit, float *probability);

#endif
