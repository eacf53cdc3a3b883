#include "fed/fault.h"

#include "base/check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const fault_names[] = {"none", "kill", "stop", "nan",
                                          "wire", "inf",  "half", "sent"};
static enum fault fault_kind;
static uint32_t fault_client, fault_round;

void fault_load(void)
{
    const char *text = getenv("FSTQ_FAULT");
    char kind[16];
    fault_kind = FAULT_NONE;
    if (!text || !*text)
        return;
    if (sscanf(text, "%15[a-z]:client=%u,round=%u", kind, &fault_client, &fault_round) == 3)
        for (int i = 1; i < (int)ARRAY_LEN(fault_names); i++)
            if (strcmp(kind, fault_names[i]) == 0)
                fault_kind = (enum fault)i;
    if (fault_kind == FAULT_NONE)
        die(STATUS_USAGE,
            "FSTQ_FAULT='%s': it is KIND:client=C,round=R with KIND kill, half, sent, stop, nan, "
            "wire or "
            "inf",
            text);
}

enum fault fault_at(uint32_t client, uint32_t round)
{
    return fault_kind != FAULT_NONE && client == fault_client && round == fault_round ? fault_kind
                                                                                      : FAULT_NONE;
}
