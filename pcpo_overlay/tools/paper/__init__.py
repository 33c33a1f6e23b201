"""The paper's ten configurations (Table 7) as launch commands of the upstreams; nothing but the standard library."""
