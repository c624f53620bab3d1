/* Takes a part of its process's memory away, and goes on in C: one thread computes and sleeps, the caller waits. */
#include <pthread.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

static void *computes(void *unused)
{
    volatile unsigned long x = 0;
    for (;;) {
        struct timespec pause = {0, 20000000};
        for (int i = 0; i < 10000000; i++)
            x++;
        nanosleep(&pause, 0);
    }
    return unused;
}

/* Returns never. `said` is written to standard output when it is done; the end of standard input ends the process. */
void hide(unsigned long address, unsigned long bytes, int unmap, const char *said, unsigned long length)
{
    pthread_t thread;
    char end;
    pthread_create(&thread, 0, computes, 0);
    if (unmap)
        munmap((void *)address, bytes);
    else
        mprotect((void *)address, bytes, PROT_NONE);
    if (write(1, said, length) < 0)
        _exit(1);
    while (read(0, &end, 1) > 0)
        ;
    _exit(0);
}
