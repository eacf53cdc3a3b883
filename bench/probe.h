// Linear probes: what can be read of vectors by a weighted sum of their values, learned from
// vectors of which it is known. As far as a linear attack goes, this is what they give away.
#ifndef FSTQ_BENCH_PROBE_H
#define FSTQ_BENCH_PROBE_H

#include <stdbool.h>
#include <stdint.h>

struct probe {
    int32_t dim, classes;
    int64_t n;                  // vectors seen
    double *sum, *square;       // (dim), (dim, dim) of vectors and of their products
    double *count, *of;         // (classes), (classes, dim): of those that a class is true of
    double *weight, *bias, *at; // (classes, dim), (classes), (dim) of what is fitted; scratch
};

void probe_open(struct probe *p, int32_t dim, int32_t classes);
void probe_close(struct probe *p);
// A vector, and the classes that are true of it: one for probe_fit_one, any for probe_fit_many.
void probe_add(struct probe *p, const float *x, const int32_t *classes, int32_t n);
// Linear discriminants: classes are Gaussians of one covariance, frequent ones the likelier.
void probe_fit_one(struct probe *p);
// Regression onto the indicator of each class.
void probe_fit_many(struct probe *p);
void probe_scores(const struct probe *p, const float *x, float *score); // (classes)
int32_t probe_best(const float *score, int32_t classes);
int32_t probe_frequent(const struct probe *p); // the class that most were of

#endif
