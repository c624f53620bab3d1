/* Called by a Python thread without the GIL: the last thing it does is to read the clock, so that
 * the time up to Python's own next reading is what it took to get the GIL back. */
#include <stdint.h>
#include <time.h>

int64_t nap(int64_t ns)
{
    struct timespec t = { ns / 1000000000, ns % 1000000000 };
    nanosleep(&t, 0);
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}
