/* Two threads on one CPU pass a byte to and fro as fast as they can, when told to.
 *
 * Says {"tids": [...]} at the start; for each line "MS" on stdin plays for MS milliseconds and
 * says what each thread's own counters are after it: {"threads": [{tid, voluntary, involuntary,
 * cpu_ns, passes}, ...]}, counted from the thread's birth. Between games both threads are blocked in read().
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

struct counters {
    long voluntary, involuntary;
    int64_t cpu_ns;
};

struct player {
    int tid, in, out;
    long passes;
    struct counters after;
};

static int64_t clock_ns(clockid_t id)
{
    struct timespec t;
    clock_gettime(id, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static struct counters now(void)
{
    struct rusage u;
    getrusage(RUSAGE_THREAD, &u);
    return (struct counters){u.ru_nvcsw, u.ru_nivcsw, clock_ns(CLOCK_THREAD_CPUTIME_ID)};
}

static char take(struct player *p)
{
    char c;
    if (read(p->in, &c, 1) != 1)
        exit(1);
    return c;
}

static void pass(struct player *p, char c)
{
    if (write(p->out, &c, 1) != 1)
        exit(1);
    p->passes++;
}

/* 's' begins a game, 'x' goes to and fro, 'e' ends it and is sent back. */
static void *second(void *arg)
{
    struct player *p = arg;
    p->tid = syscall(SYS_gettid);
    pass(p, 'r');
    for (;;) {
        if (take(p) != 's')
            exit(1);
        char c;
        p->passes = 0;
        do {
            pass(p, 'x');
            c = take(p);
        } while (c == 'x');
        p->after = now();
        pass(p, 'e');
    }
    return NULL;
}

static void play(struct player *p, long ms)
{
    int64_t end = clock_ns(CLOCK_MONOTONIC) + ms * 1000000LL;
    p->passes = 0;
    pass(p, 's');
    take(p);
    while (clock_ns(CLOCK_MONOTONIC) < end) {
        pass(p, 'x');
        take(p);
    }
    pass(p, 'e');
    take(p);
    p->after = now();
}

int main(void)
{
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(0, &one);
    sched_setaffinity(0, sizeof one, &one);

    int a[2], b[2];
    if (pipe(a) || pipe(b))
        return 1;
    struct player first = {.tid = getpid(), .in = a[0], .out = b[1]};
    struct player other = {.in = b[0], .out = a[1]};
    pthread_t thread;
    if (pthread_create(&thread, NULL, second, &other))
        return 1;
    take(&first);
    printf("{\"tids\": [%d, %d]}\n", first.tid, other.tid);
    fflush(stdout);

    long ms;
    while (scanf("%ld", &ms) == 1) {
        play(&first, ms);
        struct player *players[] = {&first, &other};
        printf("{\"threads\": [");
        for (int i = 0; i < 2; i++)
            printf("%s{\"tid\": %d, \"voluntary\": %ld, \"involuntary\": %ld, "
                   "\"cpu_ns\": %lld, \"passes\": %ld}", i ? ", " : "", players[i]->tid,
                   players[i]->after.voluntary, players[i]->after.involuntary,
                   (long long)players[i]->after.cpu_ns, players[i]->passes);
        printf("]}\n");
        fflush(stdout);
    }
    return 0;
}
