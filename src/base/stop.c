#include "base/stop.h"

#include <stddef.h>

static volatile sig_atomic_t asked;

static void on_signal(int sig)
{
    asked = sig;
}

void stop_listen(void)
{
    struct sigaction action = {.sa_handler = on_signal};
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGUSR1, &action, NULL);
}

bool stop_asked(void)
{
    return asked != 0;
}

const volatile sig_atomic_t *stop_flag(void)
{
    return &asked;
}
