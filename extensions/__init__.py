"""Extensions that come with the tracker. Each is a `tracker.extension.Extension`, registered like a third party's."""
