// Our own log, exp, cos and friends: + - * / sqrt only, so that every choice the suite makes
// (partition, sampling, initial adapters) is the same on every machine, whatever its libm.
#ifndef FSTQ_BASE_FMATH_H
#define FSTQ_BASE_FMATH_H

double fmath_exp(double x);    // relative error below 1e-14; 0 and inf at the ends
double fmath_log(double x);    // x > 0; -inf at 0, NaN below
double fmath_sin2pi(double t); // sin(2 pi t), cos(2 pi t); absolute error below 1e-15
double fmath_cos2pi(double t);
double fmath_pow(double x, double y); // x > 0

#endif
