"""L2-SP: Li, Grandvalet and Davoine (2018), equation 3."""


def l2_sp_reference(parameters, starting, head):
    value = 0.0
    for name, weights in parameters.items():
        if name in starting:
            value += 0.5 * sum((w - w0) ** 2 for w, w0 in zip(weights.reshape(-1), starting[name].reshape(-1), strict=True))
        else:
            value += 0.5 * head * sum(w**2 for w in weights.reshape(-1))
    return value
