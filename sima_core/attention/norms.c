/* One pass over a fused projection for SimA's ℓ1-norms; see kernel.py.
 *
 * PyTorch takes |x| into a temporary and sums that: two passes and a fresh buffer as large as Q and
 * K. Here each thread streams through its share of the rows once, four rows at a time, so that the
 * running sums (a few KB, in the first-level cache) are loaded and stored once for four rows.
 */
#include <math.h>
#include <stddef.h>
#include <stdlib.h>

static void add_rows(const float *restrict x, size_t rows, size_t stride, size_t width,
                     float *restrict sums) {
    size_t r = 0;
    for (; r + 4 <= rows; r += 4, x += 4 * stride) {
        const float *restrict a = x, *restrict b = x + stride, *restrict c = x + 2 * stride,
                    *restrict d = x + 3 * stride;
        for (size_t i = 0; i < width; i++)
            sums[i] += (fabsf(a[i]) + fabsf(b[i])) + (fabsf(c[i]) + fabsf(d[i]));
    }
    for (; r < rows; r++, x += stride)
        for (size_t i = 0; i < width; i++)
            sums[i] += fabsf(x[i]);
}

/* Divide the rows of `matrix` (batch, channels, cols) by the products of the channels' two norms.
 *
 * qkv: (batch, tokens, 3 * channels). Sums are taken in float over at most 32 rows and in double
 * beyond, so that long sequences lose no digits. Returns 0, or 1 if there is no memory.
 */
int divide_by_norms(const float *qkv, float *matrix, size_t batch, size_t tokens, size_t channels,
                    size_t cols, float floor) {
    const size_t width = 2 * channels, stride = 3 * channels, chunk = 32;
    double *norms = malloc(width * sizeof(double));
    float *scales = malloc(channels * sizeof(float));
    int failed = norms == NULL || scales == NULL;
    for (size_t image = 0; image < batch && !failed; image++) {
        const float *x = qkv + image * tokens * stride;
        for (size_t i = 0; i < width; i++)
            norms[i] = 0;
        const long chunks = (long)((tokens + chunk - 1) / chunk);
#pragma omp parallel if (tokens * width > 32768)
        {
            double *own = calloc(width, sizeof(double));
            float *sums = malloc(width * sizeof(float));
            if (own && sums) {
#pragma omp for schedule(static)
                for (long n = 0; n < chunks; n++) {
                    const size_t first = (size_t)n * chunk;
                    const size_t rows = tokens - first < chunk ? tokens - first : chunk;
                    for (size_t i = 0; i < width; i++)
                        sums[i] = 0;
                    add_rows(x + first * stride, rows, stride, width, sums);
                    for (size_t i = 0; i < width; i++)
                        own[i] += sums[i];
                }
#pragma omp critical
                for (size_t i = 0; i < width; i++)
                    norms[i] += own[i];
            } else {
#pragma omp atomic write
                failed = 1;
            }
            free(own);
            free(sums);
        }
        for (size_t c = 0; c < channels; c++) { /* apart from the next loop, so that it is vectorised */
            double q = norms[c], k = norms[channels + c];
            q = q < floor ? floor : q; /* not fmax: NaN must stay */
            k = k < floor ? floor : k;
            scales[c] = (float)(1.0 / (q * k));
        }
        float *restrict rows = matrix + image * channels * cols;
        for (size_t c = 0; c < channels; c++)
            for (size_t i = 0; i < cols; i++)
                rows[c * cols + i] *= scales[c];
    }
    free(scales);
    free(norms);
    return failed;
}
