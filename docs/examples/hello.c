#include <stdio.h>

int main(void)
{
    printf("hello, in C of %ld\n", __STDC_VERSION__ / 100);
    return 0;
}
