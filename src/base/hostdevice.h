// NEREUS_HD marks a function that host and device code share.
#pragma once

#ifdef __CUDACC__
#define NEREUS_HD __host__ __device__
#else
#define NEREUS_HD
#endif
