// Every thread writes, those beyond the end too.
x[i] *= a;
