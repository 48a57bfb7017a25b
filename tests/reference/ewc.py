"""EWC: Kirkpatrick et al. (2017), equation 3 without the new task's loss, weight by weight."""


def ewc_reference(parameters, starting, information):
    total = 0.0
    for name, start in starting.items():
        for now, before, matters in zip(parameters[name].ravel(), start.ravel(), information[name].ravel(), strict=True):
            total += 0.5 * matters * (now - before) ** 2
    return total
