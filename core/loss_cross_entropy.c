/* The ranking loss. */
#include "core/loss_cross_entropy.h"

#include <math.h>
#include <stdbool.h>

static double sigmoid1(double z) { return z >= 0.0 ? 1.0 / (1.0 + exp(-z)) : exp(z) / (1.0 + exp(z)); }

double cross_entropy(size_t n, const float *logit, const uint8_t *label, const uint8_t *correction, float *dlogit)
{
    double sum = 0.0, share = 1.0 / (double)n;
    for (size_t i = 0; i < n; i++) {
        double z = (double)logit[i];
        if (correction && correction[i]) {
            sum -= z;
            dlogit[i] = (float)-share;
        } else {
            double y = label[i] ? 1.0 : 0.0;
            sum += (z > 0.0 ? z : 0.0) + log1p(exp(-fabs(z))) - y * z;
            dlogit[i] = (float)((sigmoid1(z) - y) * share);
        }
    }
    return sum * share;
}

void sigmoid(size_t n, const float *logit, float *probability)
{
    for (size_t i = 0; i < n; i++) probability[i] = (float)sigmoid1((double)logit[i]);
}
