"""What the scripts beside this one take on their command lines."""


def split(arguments, **defaults):
    """({name: number}, the other arguments): NAME=number replaces one of `defaults`."""
    options, others = defaults, []
    for argument in arguments:
        name, _, value = argument.partition("=")
        if name in options:
            options[name] = int(value)
        else:
            others.append(argument)
    return options, others
