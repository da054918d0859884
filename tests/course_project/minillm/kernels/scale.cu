// Multiply an array by a number.
extern "C" __global__ void scale(float* x, float a, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    // BEGIN SOLUTION ex=92.2
    if (i < n) x[i] *= a;
    // END SOLUTION
}
